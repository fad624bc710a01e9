// The catalogue of a hub: theme and copying on every page, the list of modules, two side by side.
// Text of modules goes into the page as text only.
'use strict';

(() => {
  const root = document.documentElement;
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Before the page is painted, so that it does not flash.
  const kept = {  // a browser may keep nothing for files
    get: () => { try { return localStorage.getItem('theme'); } catch { return null; } },
    set: value => { try { localStorage.setItem('theme', value); } catch { /* for this page only */ } },
  };
  if (['dark', 'light'].includes(kept.get())) root.dataset.theme = kept.get();

  document.addEventListener('DOMContentLoaded', () => {
    theme();
    all('pre').forEach(copied);
    if (one('#rows')) list();
    if (one('#sides')) sides();
  });

  function theme() {
    const button = one('#theme');
    const system = matchMedia('(prefers-color-scheme: dark)');
    const dark = () => (root.dataset.theme ?? (system.matches ? 'dark' : 'light')) === 'dark';
    const show = () => { button.textContent = dark() ? 'Light' : 'Dark'; };
    button.addEventListener('click', () => {
      root.dataset.theme = dark() ? 'light' : 'dark';
      kept.set(root.dataset.theme);
      show();
    });
    system.addEventListener('change', show);
    show();
    button.hidden = false;
  }

  function copied(pre) {
    const around = document.createElement('div');
    const button = document.createElement('button');
    around.className = 'code';
    button.type = 'button';
    button.textContent = 'Copy';
    button.setAttribute('aria-live', 'polite');
    pre.replaceWith(around);
    around.append(pre, button);
    button.addEventListener('click', async () => {
      const done = await copy(pre.textContent);
      button.textContent = done ? 'Copied' : 'Press Ctrl+C';
      if (!done) getSelection().selectAllChildren(pre);
      setTimeout(() => { button.textContent = 'Copy'; }, 2000);
    });
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);  // not there for files and plain http
      return true;
    } catch {
      const area = document.createElement('textarea');
      const focused = document.activeElement;
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand('copy');
      area.remove();
      focused?.focus();
      return done;
    }
  }

  const stated = () => new URLSearchParams(location.hash.slice(1));

  function state(values) {
    const given = Object.entries(values).filter(([, value]) => value);
    const hash = new URLSearchParams(given).toString();
    history.replaceState(null, '', hash ? `#${hash}` : location.pathname + location.search);
  }

  function list() {
    const numbers = ['size', 'parameters', 'score', 'gain'];
    const compared = new Intl.Collator('en', {numeric: true}).compare;
    const body = one('#rows');
    const rows = all('.row', body).map(element => {
      const data = {handle: one('a', element).textContent};
      data.publisher = data.handle.split('/')[0];
      for (const key of ['kind', 'slice', 'upstream']) data[key] = one(`.${key}`, element).textContent;
      for (const key of numbers) data[key] = element.dataset[key] && Number(element.dataset[key]);
      const text = [one('.handle', element).textContent, data.kind, data.slice, data.upstream, element.dataset.text];
      return {element, data, text: text.join(' ').toLowerCase(),
        under: new Set(element.dataset.under.split(' ')), shown: true};
    });
    const search = one('#search');
    const everything = one('#found').textContent;
    const filters = all('[data-filter]');
    const tree = slices(place => { chosen = place; apply(); });
    let chosen = tree.chosen();
    let sort = {by: 'handle', down: false};
    let picked = [];

    function apply() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = filters.filter(field => field.value).map(field => [field.dataset.filter, field.value]);
      const {place, key} = chosen;
      let count = 0;
      for (const row of rows) {
        const shown = words.every(word => row.text.includes(word))
          && wanted.every(([name, value]) => row.data[name] === value)
          && (!place || row.under.has(place));
        count += shown;
        if (shown !== row.shown) row.element.hidden = !(row.shown = shown);
      }
      one('#found').textContent = count === rows.length ? everything : `${count} of ${everything}`;
      one('#none').hidden = count > 0;
      state({q: search.value.trim(), ...Object.fromEntries(wanted), slice: key,
        sort: sort.by === 'handle' && !sort.down ? '' : (sort.down ? '-' : '') + sort.by});
    }

    function sorted(by, down) {
      sort = {by, down};
      const sign = down ? -1 : 1;
      const order = (a, b) => {
        const [x, y] = [a.data[by], b.data[by]];
        if (x === '' || y === '') return (x === '') - (y === '');  // last, either way
        return sign * (numbers.includes(by) ? x - y : compared(x, y));
      };
      rows.sort((a, b) => order(a, b) || compared(a.data.handle, b.data.handle));
      body.append(...rows.map(row => row.element));
      for (const button of all('[data-sort]')) {
        const header = button.parentElement;
        if (button.dataset.sort === by) header.ariaSort = down ? 'descending' : 'ascending';
        else header.removeAttribute('aria-sort');
      }
    }

    function pick() {
      for (const row of rows) {
        const is = picked.includes(row.data.handle);
        if (row.element.classList.toggle('chosen', is) !== one('input', row.element).checked) {
          one('input', row.element).checked = is;
        }
      }
      one('#picked').hidden = !picked.length;
      one('#chosen').textContent = picked.length === 1 ? `${picked[0]}: choose one more to compare` : picked.join(' and ');
      one('#compare').hidden = picked.length < 2;
      one('#compare').href = `compare.html#${new URLSearchParams({a: picked[0] ?? '', b: picked[1] ?? ''})}`;
    }

    function reset() {
      search.value = '';
      for (const field of filters) field.value = '';
      tree.choose('');
      search.focus();
    }

    function restore() {
      const values = stated();
      search.value = values.get('q') ?? '';
      for (const field of filters) {
        field.value = values.get(field.dataset.filter) ?? '';
        if (field.selectedIndex < 0) field.value = '';
      }
      const by = values.get('sort') ?? 'handle';
      const name = by.replace(/^-/, '');
      const known = all('[data-sort]').some(button => button.dataset.sort === name);
      if (known && (name !== sort.by || (by !== name) !== sort.down)) sorted(name, by !== name);
      tree.choose(values.get('slice') ?? '');
    }

    search.addEventListener('input', apply);
    one('.filters').addEventListener('change', apply);
    one('.filters').addEventListener('submit', event => event.preventDefault());
    one('#clear').addEventListener('click', event => { event.preventDefault(); reset(); });
    one('#again').addEventListener('click', reset);
    one('.head').addEventListener('click', event => {
      const by = event.target.closest('[data-sort]')?.dataset.sort;
      if (!by) return;
      sorted(by, by === sort.by ? !sort.down : numbers.includes(by));  // of numbers the greatest first
      apply();
    });
    body.addEventListener('change', event => {
      const handle = one('a', event.target.closest('.row')).textContent;
      picked = event.target.checked ? [...picked, handle].slice(-2) : picked.filter(other => other !== handle);
      pick();
    });
    one('#unpick').addEventListener('click', () => { picked = []; pick(); search.focus(); });
    document.addEventListener('keydown', event => {
      const writing = event.target.matches('input[type="search"], select, textarea');
      if (event.key !== '/' || writing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      search.focus();
      search.select();
    });
    addEventListener('hashchange', () => { if (location.hash !== '#content') restore(); });
    if (matchMedia('(max-width: 60rem)').matches) one('.slices').open = false;
    // What a browser puts back into fields itself is not what the address says.
    restore();
  }

  // The tree of slices, as the WAI-ARIA pattern has it; `changed` gets what is chosen.
  function slices(changed) {
    const tree = one('[role="tree"]');
    const items = all('[role="treeitem"]', tree);
    const level = item => Number(item.ariaLevel);
    const open = item => item.ariaExpanded === 'true';
    const parents = new Map();
    const way = [];
    for (const item of items) {
      way.length = level(item) - 1;
      parents.set(item, way.at(-1));
      way.push(item);
    }

    function fold() {
      const closed = new Set();
      for (const item of items) {
        const parent = parents.get(item);
        item.hidden = closed.has(parent);
        if (item.hidden || item.ariaExpanded === 'false') closed.add(item);
      }
    }

    function focus(item) {
      if (!item) return;
      for (const other of all('[tabindex="0"]', tree)) other.tabIndex = -1;
      item.tabIndex = 0;
      item.focus();
    }

    function expand(item, value) {
      if (item.ariaExpanded === null) return;
      item.ariaExpanded = String(value);
      fold();
      if (!value && tree.contains(document.activeElement) && document.activeElement.hidden) focus(item);
      if (one('[tabindex="0"]', tree).hidden) {
        one('[tabindex="0"]', tree).tabIndex = -1;
        item.tabIndex = 0;
      }
    }

    function select(item) {
      for (const other of items) other.ariaSelected = String(other === item);
      for (let above = parents.get(item); above; above = parents.get(above)) above.ariaExpanded = 'true';
      fold();
      changed(item.dataset);
    }

    tree.addEventListener('click', event => {
      const item = event.target.closest('[role="treeitem"]');
      if (!item) return;
      focus(item);
      if (event.target.matches('.twisty') && item.ariaExpanded !== null) expand(item, !open(item));
      else select(item.ariaSelected === 'true' ? items[0] : item);
    });

    tree.addEventListener('keydown', event => {
      const item = event.target.closest('[role="treeitem"]');
      if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
      const seen = items.filter(other => !other.hidden);
      const at = seen.indexOf(item);
      const moves = {
        ArrowDown: () => focus(seen[at + 1]),
        ArrowUp: () => focus(seen[at - 1]),
        Home: () => focus(seen[0]),
        End: () => focus(seen.at(-1)),
        ArrowRight: () => item.ariaExpanded === 'false' ? expand(item, true) : open(item) && focus(seen[at + 1]),
        ArrowLeft: () => open(item) ? expand(item, false) : focus(parents.get(item)),
        Enter: () => select(item),
        ' ': () => select(item),
      };
      if (moves[event.key]) {
        moves[event.key]();
      } else if (event.key.length === 1 && event.key !== '/') {
        const letter = event.key.toLowerCase();
        focus([...seen.slice(at + 1), ...seen.slice(0, at)].find(
          other => one('.name', other).textContent.toLowerCase().startsWith(letter)));
      } else {
        return;
      }
      event.preventDefault();
    });

    fold();
    return {
      chosen: () => items[0].dataset,
      choose: key => select(items.find(item => item.dataset.key === key) ?? items[0]),
    };
  }

  function sides() {
    const modules = JSON.parse(one('#modules').textContent);
    const fields = [one('#a'), one('#b')];

    function show() {
      const handles = fields.map(field => field.value);
      const table = one('#sides');
      const heads = all('thead th', table);
      const facts = handles.map(handle => modules[handle]?.facts);
      handles.forEach((handle, side) => {
        heads[side].textContent = '';
        if (!facts[side]) return;
        const link = document.createElement('a');
        link.href = modules[handle].page;
        link.textContent = handle;
        heads[side].append(link);
      });
      table.hidden = !facts[0] && !facts[1];
      one('tbody', table).replaceChildren(...(facts[0] ?? facts[1] ?? []).flatMap(([what], i) => {
        const texts = facts.map(side => side?.[i][1] ?? '');
        if (!texts[0] && !texts[1]) return [];
        const row = document.createElement('tr');
        const head = document.createElement('th');
        head.scope = 'row';
        head.textContent = what;
        row.append(head, ...texts.map(text => {
          const cell = document.createElement('td');
          cell.textContent = text;
          return cell;
        }));
        row.classList.toggle('differs', Boolean(facts[0] && facts[1]) && texts[0] !== texts[1]);
        return [row];
      }));
      document.title = handles.every(Boolean) ? `${handles[0]} and ${handles[1]}` : 'Compare two modules';
    }

    function restore() {
      fields.forEach(field => {
        field.value = stated().get(field.id) ?? '';
        if (field.selectedIndex < 0) field.value = '';
      });
      show();
    }

    for (const field of fields) {
      field.addEventListener('change', () => {
        state({a: fields[0].value, b: fields[1].value});
        show();
      });
    }
    addEventListener('hashchange', restore);
    restore();
  }
})();
