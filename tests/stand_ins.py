"""Servers that stand in for places of modules, as far as their client libraries ask."""

import base64
import hashlib
import json
import re
import urllib.parse
from xml.sax import saxutils


def send(handler, status, content=b'', **headers):
  """Answers a request; bytes as they are, text and JSON-like values as such."""
  if isinstance(content, (dict, list)):
    content, headers = json.dumps(content), {'Content-Type': 'application/json'} | headers
  if isinstance(content, str):
    content = content.encode()
  handler.send_response(status)
  for name, value in headers.items():
    handler.send_header(name.replace('_', '-'), value)
  handler.send_header('Content-Length', len(content))
  handler.end_headers()
  if handler.command != 'HEAD':
    handler.wfile.write(content)


def send_file(handler, content, breaks=None, **headers):
  """Answers with a file, or the range of it that is asked for; breaks off after some bytes."""
  asked = re.fullmatch(r'bytes=(\d+)-(\d*)', handler.headers['Range'] or '')
  first, last = 0, len(content)
  if asked:
    first, last = int(asked[1]), min(int(asked[2] or last) + 1, last)
    headers['Content-Range'] = f'bytes {first}-{last - 1}/{len(content)}'
  handler.send_response(206 if asked else 200)
  for name, value in {'Accept-Ranges': 'bytes', **headers}.items():
    handler.send_header(name.replace('_', '-'), value)
  handler.send_header('Content-Length', last - first)
  handler.end_headers()
  if handler.command != 'HEAD':
    handler.wfile.write(content[first:last if breaks is None else max(first, min(breaks, last))])


def body(handler):
  """The content of a request."""
  if handler.headers['Expect']:
    handler.wfile.write(b'HTTP/1.1 100 Continue\r\n\r\n')
  return handler.rfile.read(int(handler.headers['Content-Length'] or 0))


class S3:
  """Amazon's S3: objects of buckets, listed, read by ranges, written.

  Attributes:
    objects: bytes by 'bucket/key'.
    asked: (method, object, Range) of each request for one.
    breaks: bytes of each object from which on nothing can be read; None for all.
    refuses: a status that answers everything, or None.
  """

  def __init__(self):
    self.objects, self.asked, self.breaks, self.refuses = {}, [], None, None

  def answer(self, handler):
    url = urllib.parse.urlsplit(handler.path)
    name, query = urllib.parse.unquote(url.path[1:]), dict(urllib.parse.parse_qsl(url.query))
    content = body(handler)
    if self.refuses:
      _error(handler, self.refuses, 'AccessDenied')
    elif 'list-type' in query:
      self._list(handler, name.rstrip('/') + '/' + query.get('prefix', ''), query)
    elif handler.command == 'PUT':
      if handler.headers['If-None-Match'] == '*' and name in self.objects:
        _error(handler, 412, 'PreconditionFailed')
        return
      self.objects[name] = content
      send(handler, 200, ETag='"1"')
    elif name not in self.objects:
      _error(handler, 404, 'NoSuchKey')
    else:
      self.asked.append((handler.command, name, handler.headers['Range']))
      first = int(re.match(r'bytes=(\d+)', handler.headers['Range'] or 'bytes=0')[1])
      if handler.command == 'GET' and self.breaks is not None and first >= self.breaks:
        _error(handler, 400, 'Broken')
      else:
        send_file(handler, self.objects[name], ETag='"1"')

  def _list(self, handler, prefix, query):
    bucket, _, start = prefix.partition('/')
    keys, folders = [], set()
    for name, content in sorted(self.objects.items()):
      if name.startswith(prefix):
        key = name[len(bucket) + 1:]
        rest = key[len(start):]
        if query.get('delimiter') and '/' in rest:
          folders.add(start + rest.split('/')[0] + '/')
        else:
          keys.append(f'<Contents><Key>{saxutils.escape(key)}</Key><Size>{len(content)}</Size>'
                      '<ETag>"1"</ETag><LastModified>2026-01-01T00:00:00Z</LastModified>'
                      '</Contents>')
    prefixes = ''.join(f'<CommonPrefixes><Prefix>{saxutils.escape(folder)}</Prefix>'
                       '</CommonPrefixes>' for folder in sorted(folders))
    send(handler, 200, f'<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>'
         f'<KeyCount>{len(keys) + len(folders)}</KeyCount>{"".join(keys)}{prefixes}'
         '</ListBucketResult>', Content_Type='application/xml')


def _error(handler, status, code):
  send(handler, status, f'<Error><Code>{code}</Code><Message>{code}</Message><Condition>'
       'If-None-Match</Condition></Error>', Content_Type='application/xml')


class HuggingFace:
  """Hugging Face's Hub: repositories of commits and tags, large files by git-lfs.

  Attributes:
    commits: {file: bytes} by 'user/name', oldest first.
    tags: index of a commit, by 'user/name' and tag.
    asked: (method, file, Range) of each request for one.
    breaks: after how many bytes the next files break off, one an answer.
    refuses: a status that answers everything, or None.
    fails: part of the path of a request that is answered by 500, or None.
    url: set when it listens.
  """

  def __init__(self):
    self.commits, self.tags, self.asked, self.breaks = {}, {}, [], []
    self.refuses, self.fails, self.url, self._large = None, None, None, {}

  def answer(self, handler):
    url = urllib.parse.urlsplit(handler.path)
    path, content = urllib.parse.unquote(url.path), body(handler)
    if self.refuses:
      send(handler, self.refuses, {'error': 'who are you?'})
      return
    if self.fails and self.fails in path:
      send(handler, 500, {'error': 'oops'})
      return
    for pattern, answer in (
        ('/api/repos/create', self._create), ('/api/validate-yaml', self._validate),
        ('/api/models/([^/]+/[^/]+)(?:/revision/(.+))?', self._info),
        ('/api/models/([^/]+/[^/]+)/refs', self._refs),
        ('/api/models/([^/]+/[^/]+)/preupload/main', self._preupload),
        ('/api/models/([^/]+/[^/]+)/commit/main', self._commit),
        ('/api/models/([^/]+/[^/]+)/tag/(.+)', self._tag),
        (r'/([^/]+/[^/]+)\.git/info/lfs/objects/batch', self._batch), ('/large/(.+)', self._put),
        ('/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', self._file)):
      match = re.fullmatch(pattern, path)
      if match:
        answer(handler, content, *match.groups())
        return
    send(handler, 404, {'error': path})

  def _sha(self, repository, index):
    return hashlib.sha1(f'{repository} {index}'.encode()).hexdigest()

  def _index(self, repository, revision):
    commits = self.commits.get(repository, [])
    if revision == 'main':
      return len(commits) - 1
    return self.tags.get((repository, revision), next(
        (i for i in range(len(commits)) if self._sha(repository, i) == revision), None))

  def _create(self, handler, content):
    asked = json.loads(content)
    repository = f'{asked["organization"]}/{asked["name"]}'
    known = repository in self.commits
    self.commits.setdefault(repository, [{'.gitattributes': b'*.pb filter=lfs'}])
    send(handler, 409 if known else 200, {'url': f'{self.url}/{repository}'})

  def _validate(self, handler, content):
    import yaml
    text = json.loads(content)['content']
    yaml.safe_load(text.split('---\n')[1])
    send(handler, 200, {'errors': [], 'warnings': []})

  def _info(self, handler, content, repository, revision=None):
    index = self._index(repository, revision or 'main')
    if index is None or index < 0:
      send(handler, 404, {'error': 'none'}, X_Error_Code=(
          'RevisionNotFound' if repository in self.commits else 'RepoNotFound'))
      return
    send(handler, 200, {
        'id': repository, 'sha': self._sha(repository, index), 'siblings': [
            {'rfilename': name, 'size': len(content)}
            for name, content in self.commits[repository][index].items()]})

  def _refs(self, handler, content, repository):
    if repository not in self.commits:
      send(handler, 404, {'error': 'none'}, X_Error_Code='RepoNotFound')
      return
    send(handler, 200, {'branches': [], 'converts': [], 'tags': [
        {'name': tag, 'ref': f'refs/tags/{tag}', 'targetCommit': self._sha(repository, index)}
        for (of, tag), index in self.tags.items() if of == repository]})

  def _preupload(self, handler, content, repository):
    send(handler, 200, {'files': [
        {'path': file['path'], 'shouldIgnore': False,
         'uploadMode': 'lfs' if file['path'].endswith('.pb') else 'regular'}
        for file in json.loads(content)['files']]})

  def _batch(self, handler, content, repository):
    send(handler, 200, {'transfer': 'basic', 'objects': [
        {**one, 'actions': {'upload': {'href': f'{self.url}/large/{one["oid"]}'}}}
        for one in json.loads(content)['objects']]})

  def _put(self, handler, content, oid):
    self._large[oid] = content
    send(handler, 200)

  def _commit(self, handler, content, repository):
    files = dict(self.commits[repository][-1])
    for line in content.splitlines():
      one = json.loads(line)
      value = one['value']
      if one['key'] == 'file':
        files[value['path']] = base64.b64decode(value['content'])
      elif one['key'] == 'lfsFile':
        files[value['path']] = self._large[value['oid']]
      elif one['key'] == 'deletedFile':
        del files[value['path']]
      elif value.get('parentCommit') != self._sha(repository, len(self.commits[repository]) - 1):
        send(handler, 412, {'error': 'not the newest'})
        return
    self.commits[repository].append(files)
    sha = self._sha(repository, len(self.commits[repository]) - 1)
    send(handler, 200, {'success': True, 'commitOid': sha,
                        'commitUrl': f'{self.url}/{repository}/commit/{sha}'})

  def _tag(self, handler, content, repository, revision):
    tag = json.loads(content)['tag']
    known = (repository, tag) in self.tags
    self.tags.setdefault((repository, tag), self._index(repository, revision))
    send(handler, 409 if known else 200, {'error': 'there is one'} if known else {})

  def _file(self, handler, content, repository, revision, name):
    index = self._index(repository, revision)
    self.asked.append((handler.command, name, handler.headers['Range']))
    breaks = self.breaks.pop(0) if self.breaks and handler.command == 'GET' else None
    whole = self.commits[repository][index][name]
    send_file(handler, whole, breaks, ETag=f'"{hashlib.sha256(whole).hexdigest()}"',
              X_Repo_Commit=self._sha(repository, index))


class Kaggle:
  """Kaggle Models, and the storage that it sends its clients to.

  Attributes:
    versions: list of {file: bytes} by 'owner/model/variation'.
    asked: (method, file, Range) of each request for one.
    breaks: after how many bytes the next files break off, one an answer.
    refuses: a status that answers everything, or None.
    url: set when it listens.
  """

  def __init__(self):
    self.versions, self.asked, self.breaks, self.refuses = {}, [], [], None
    self.url, self._models, self._blobs = None, set(), []

  def answer(self, handler):
    path, content = urllib.parse.unquote(handler.path), body(handler)
    stored = re.fullmatch('/stored/([^?]*)/([0-9]+)/(.+)', path)
    if self.refuses:
      send(handler, self.refuses, {'code': self.refuses, 'message': 'who are you?'})
    elif stored:
      whole = self.versions[stored[1]][int(stored[2]) - 1][stored[3]]
      self.asked.append((handler.command, stored[3], handler.headers['Range']))
      breaks = self.breaks.pop(0) if self.breaks else None
      digest = base64.b64encode(hashlib.md5(whole).digest()).decode()
      send_file(handler, whole, breaks, x_goog_hash=f'md5={digest}')
    elif path.startswith('/blob/'):
      self._blobs[int(path[len('/blob/'):])][1] = content
      send(handler, 200)
    else:
      asked = json.loads(content)
      asked |= asked.pop('body', {})
      getattr(self, path.split('/')[-1])(handler, asked, '/'.join(
          asked.get(key, '') for key in ('ownerSlug', 'modelSlug', 'instanceSlug')))

  def GetModel(self, handler, asked, name):  # noqa: N802 - as the service calls them
    known = (asked['ownerSlug'], asked['modelSlug']) in self._models
    send(handler, 200 if known else 403, {} if known else {'code': 403, 'message': 'none'})

  def CreateModel(self, handler, asked, name):  # noqa: N802
    self._models.add((asked['ownerSlug'], asked['slug']))
    send(handler, 200, {})

  def GetModelInstance(self, handler, asked, name):  # noqa: N802
    if name in self.versions:
      send(handler, 200, {'versionNumber': len(self.versions[name])})
    else:
      send(handler, 404, {'code': 404, 'message': 'none'})

  def StartBlobUpload(self, handler, asked, name):  # noqa: N802
    self._blobs.append([asked['name'], b''])
    number = len(self._blobs) - 1
    send(handler, 200, {'token': str(number), 'createUrl': f'{self.url}/blob/{number}'})

  def CreateModelInstance(self, handler, asked, name):  # noqa: N802
    if name in self.versions:
      send(handler, 200, {'error': 'there is one', 'errorCode': 409})
    else:
      self.CreateModelInstanceVersion(handler, asked, name)

  def CreateModelInstanceVersion(self, handler, asked, name):  # noqa: N802
    files = {}

    def walk(folder, prefix):
      for file in folder.get('files') or ():
        base, content = self._blobs[int(file['token'])]
        files[prefix + base] = content
      for below in folder.get('directories') or ():
        walk(below, f'{prefix}{below["name"]}/')

    walk(asked, '')
    self.versions.setdefault(name, []).append(files)
    send(handler, 200, {})

  def ListModelInstanceVersionFiles(self, handler, asked, name):  # noqa: N802
    files = sorted(self.versions[name][asked['versionNumber'] - 1].items())
    first = int(asked.get('pageToken') or 0)
    send(handler, 200, {
        'files': [{'name': file, 'size': len(content)} for file, content in files[first:first + 4]],
        'nextPageToken': str(first + 4) if first + 4 < len(files) else ''})

  def DownloadModelInstanceVersion(self, handler, asked, name):  # noqa: N802
    send(handler, 302, Location=f'{self.url}/stored/{name}/{asked["versionNumber"]}/'
         + urllib.parse.quote(asked['path']))


class Gcs:
  """Google Cloud Storage, by its JSON interface.

  Attributes:
    objects: bytes by 'bucket/key'.
    refuses: a status that answers everything, or None.
  """

  def __init__(self):
    self.objects, self.refuses = {}, None

  def answer(self, handler):
    url = urllib.parse.urlsplit(handler.path)
    query, content = dict(urllib.parse.parse_qsl(url.query)), body(handler)
    bucket, key = re.fullmatch(
        '(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?', url.path).groups()
    name = f'{bucket}/{urllib.parse.unquote(key or "")}'
    if self.refuses:
      send(handler, self.refuses, {'error': {'code': self.refuses, 'message': 'who are you?'}})
    elif url.path.startswith('/upload'):
      self._put(handler, bucket, query, content)
    elif key is None:
      self._list(handler, bucket, query)
    elif name not in self.objects:
      send(handler, 404, {'error': {'code': 404, 'message': 'none'}})
    elif query.get('alt') == 'media':
      send_file(handler, self.objects[name])
    else:
      send(handler, 200, self._entry(name))

  def _entry(self, name):
    bucket, _, key = name.partition('/')
    return {'kind': 'storage#object', 'bucket': bucket, 'name': key, 'etag': '1',
            'generation': '1', 'size': str(len(self.objects[name])),
            'timeCreated': '2026-01-01T00:00:00Z', 'updated': '2026-01-01T00:00:00Z'}

  def _put(self, handler, bucket, query, content):
    edge = b'--==0=='
    head, whole = content[len(edge):].removesuffix(b'\n' + edge + b'--').split(b'\n' + edge, 1)
    key = json.loads(head.partition(b'\n\n')[2])['name']
    name = f'{bucket}/{key}'
    if query.get('ifGenerationMatch') == '0' and name in self.objects:
      send(handler, 412, {'error': {'code': 412, 'message': 'conditionNotMet'}})
      return
    self.objects[name] = whole.split(b'\n\n', 1)[1]
    send(handler, 200, self._entry(name))

  def _list(self, handler, bucket, query):
    start = f'{bucket}/{query.get("prefix", "")}'
    items, folders = [], set()
    for name in sorted(self.objects):
      rest = name[len(start):]
      if name.startswith(start) and query.get('delimiter') and '/' in rest:
        folders.add(f'{query.get("prefix", "")}{rest.split("/")[0]}/')
      elif name.startswith(start):
        items.append(self._entry(name))
    send(handler, 200, {'items': items, 'prefixes': sorted(folders)})
