"""zoo-publish: makes modules of finished training runs and puts them into a hub.

The hub is a folder, or a URL: gs://bucket/folder or s3://bucket/folder, hf:// (the repository is
publisher/name, the tag v1 for version 1) or kaggle://. --module publishes a module that was made
before, as it is.

--work_dir names the folder of a baseline, of an expert, of all experts of a baseline, of a network
for several tasks, or of what predicts slices. Whole experts become a module each, NAME-SLICE;
adapter experts are packed into one. With --predictor a baseline's whole classifier is published,
for rankings by the labels that it predicts. A module is written beside its place, loaded back
through hub.KerasLayer, compared with the Keras network, and renamed; a version that is there is
never changed. With --sign it is signed before.
"""

import json
import shutil
import sys

from absl import flags

from zoo import cli

TOLERANCE = 1e-5


def publish(backbone, description, root, handle, sign=None):
  """Publishes a network as a module.

  Args:
    backbone: a `zoo.backbones.Backbone` or `zoo.classifier.Predictor`, float32, with its
      final weights.
    description: what module.json says besides what follows from the backbone.
    root: folder or URL of the hub.
    handle: publisher/name/version, which must be free.
    sign: key to sign it with, as in `export.signing.sign`, or None.

  Returns:
    The path or URL of the module.

  Raises:
    ValueError: the handle is malformed or taken, a weight is not finite, the module loaded back
      computes something else, or it cannot be signed.
  """
  from export import saved_model
  architecture, adapters = backbone.architecture, backbone.adapters
  size, chooses = min(architecture.image_size, 64), backbone.chooses
  arguments = [{}]
  if chooses:
    number = adapters.experts if chooses == 'expert' else architecture.sparse.tasks
    arguments = [{chooses: index} for index in range(number)]
  if backbone.sparse:
    arguments.append({'capacity': 0.5})

  def compute(images, **given):
    return backbone(images, **{
        'expert' if name == chooses else name: value for name, value in given.items()})

  return put({
      'architecture': architecture.to_dict(), 'adapters': adapters and adapters.to_dict(),
      'features': architecture.features, 'parameters': backbone.count_params(),
      **({'argument': chooses} if chooses else {}), **description},
      root, handle, backbone.variables,
      lambda path: saved_model.save(backbone, path), compute, size, arguments, sign)


def put(description, root, handle, variables, save, compute, size, arguments=({},), sign=None):
  """Publishes whatever is a function from images to embeddings.

  Args:
    description: what module.json says besides publisher, name, version, range and versions.
    root, handle: as in `publish`.
    variables: its variables, of Keras or TensorFlow.
    save: function that writes its SavedModel into a folder.
    compute: function of images float32 [B, H, W, 3] in [0, 1] that the module must equal.
    size: H and W of the images to compare them with.
    arguments: further ones of both, each of which is compared.
    sign: as in `publish`.

  Returns:
    The path or URL of the module.

  Raises:
    ValueError: as `publish`.
    OSError: as `export.stores.publishing`.
  """
  import numpy as np
  from export import hub
  from export import manifest
  from export import metadata
  from export import signing
  from export import stores
  for variable in variables:
    if not np.isfinite(variable.numpy()).all():
      raise ValueError(f'{handle}: {getattr(variable, "path", variable.name)} has values that are '
                       'not finite; nothing is published.')
  publisher, name, version = hub.split_handle(handle)
  with stores.publishing(root, handle) as path:
    save(path)
    verify_against(compute, path, size, arguments)
    manifest.seal(path, {
        'publisher': publisher, 'name': name, 'version': int(version), 'input_range': [0, 1],
        'library_versions': metadata.versions(), **description})
    if sign:
      signing.sign(path, sign)
  return stores.address(root, handle)


def verify_against(compute, path, size, arguments):
  """Loads a module through `hub.KerasLayer` and compares it with what it was made of.

  Args:
    compute, size: as in `put`.
    path: folder of the module.
    arguments: further ones of both, such as expert; each of these is compared.

  Raises:
    ValueError: an output differs by more than 1e-5 of its scale.
  """
  import numpy as np
  import tensorflow_hub
  images = np.random.default_rng(0).random((2, size, size, 3), np.float32)
  loaded = tensorflow_hub.load(path)  # once: it takes longer than all calls
  for given in arguments:
    layer = tensorflow_hub.KerasLayer(loaded, trainable=True, arguments=given)
    wanted = np.asarray(compute(images, **given))
    error = np.abs(np.asarray(layer(images)) - wanted).max() / max(1., np.abs(wanted).max())
    if not error <= TOLERANCE:
      one = ''.join(f' ({name} {value})' for name, value in given.items())
      raise ValueError(f'the module loaded back differs from its network by {error:.2g}{one}; '
                       'it is not published.')


def publish_runs(work_dir, root, publisher, name, version=1, parent=None, licence='',
                 command=(), predictor=False, sign=None):
  """Publishes what a training command left in its folder.

  Args:
    work_dir: as of `export.trained.runs`.
    root: folder or URL of the hub.
    publisher, name, version: of the module; whole experts get '-SLICE' behind the name.
    parent: handle of the baseline in the same hub, for experts and predictors.
    licence: of the weights and what they were trained on.
    command: the command line, for the record.
    predictor: of a baseline, publish the classifier that predicts labels.
    sign: as in `publish`.

  Returns:
    The handles that were published. Whole experts that are in the hub already are skipped,
    so that a killed run goes on.

  Raises:
    ValueError: as `export.trained.runs` or `publish`.
  """
  from export import hub
  from export import stores
  from export import trained
  runs = trained.runs(work_dir, predictor)
  parent = hub.resolve(parent, root).metadata['fingerprint'] if parent else None

  def common(result):
    return {'licence': licence, 'command': [*result['command'], '&&', *command],
            'seed': result['seed'], 'parent': parent}

  results = [result for _, result in runs]
  if results[0].get('adapters'):
    handle = f'{publisher}/{name}/{version}'
    publish(trained.packed(runs), trained.packed_description(results) | common(results[0]),
            root, handle, sign)
    return [handle]
  published = []
  for folder, result in runs:
    suffix = f'-{result["slice"]["name"]}' if len(runs) > 1 else ''
    handle = f'{publisher}/{name}{suffix}/{version}'
    if len(runs) > 1 and stores.taken(root, handle):
      continue
    publish(trained.network(folder, result), trained.description(result) | common(result), root,
            handle, sign)
    published.append(handle)
  return published


def publish_module(module, root, publisher=None, name=None, version=None, trust=False, sign=None):
  """Publishes a module that was made before, as it is.

  Args:
    module: an `export.hub.Module`.
    root: folder or URL of the hub.
    publisher, name, version: of the module, if given; it says them itself.
    trust: as in `export.hub.check`.
    sign: as in `publish`; a signature that it has gives way.

  Returns:
    Its handle.

  Raises:
    ValueError: it is another than publisher, name and version say, does not say them, is not
      whole (`export.hub_verify.verify`), its version is in the hub, or it cannot be signed.
    OSError: as `export.stores.publishing`.
  """
  from export import hub
  from export import hub_verify
  from export import manifest
  from export import signing
  from export import stores
  m = module.metadata
  if 'publisher' not in m:
    raise ValueError(f'{module.handle} does not say what it is: make a module of it with '
                     'zoo-import.')
  for key, asked in (('publisher', publisher), ('name', name), ('version', version)):
    if asked is not None and asked != m[key]:
      raise ValueError(f'{module.handle} has the {key} {m[key]!r}, and is published as it is: '
                       f'leave --{key} out.')
  handle = f'{m["publisher"]}/{m["name"]}/{m["version"]}'
  hub.split_handle(handle)
  hub_verify.verify(module, trust)
  with stores.publishing(root, handle) as path:
    shutil.copytree(module.path, path, symlinks=True, dirs_exist_ok=True)
    if manifest.read(path) is None:  # it is from before there was one
      manifest.seal(path, m)
    manifest.check(path, m)
    if sign:
      signing.sign(path, sign)
  return handle


FLAGS = cli.new_flags()
flags.DEFINE_string('work_dir', None, 'Folder of a finished zoo-pretrain, zoo-experts or '
                    'zoo-multitask.', flag_values=FLAGS)
flags.DEFINE_string('module', None, 'Instead of --work_dir: the handle, folder or URL of a module '
                    'to publish as it is.', flag_values=FLAGS)
flags.DEFINE_string('hub', None, 'Folder or URL of the hub.', flag_values=FLAGS)
flags.DEFINE_string('publisher', None, 'First part of the handle.', flag_values=FLAGS)
flags.DEFINE_string('name', None, 'Second part of the handle.', flag_values=FLAGS)
flags.DEFINE_integer('version', None, 'Third part of the handle; 1 if not given. A --module says '
                     'all three itself.', flag_values=FLAGS)
flags.DEFINE_bool('trust', False, 'Publish a --module whose graph could touch files, sockets or '
                  'Python.', flag_values=FLAGS)
flags.DEFINE_string('parent', None, "Handle of the experts' or predictor's baseline in the same "
                    'hub.', flag_values=FLAGS)
flags.DEFINE_bool('predictor', False, "Publish a baseline's classifier, which predicts upstream "
                  'labels, rather than its embeddings.', flag_values=FLAGS)
flags.DEFINE_string('licence', '', 'Licence of the weights.', flag_values=FLAGS)
flags.DEFINE_string('sign', None, 'Sign it by OpenSSF model signing: file of a private key, whose '
                    'password $ZOO_KEY_PASSWORD may have, or "sigstore" for an identity.',
                    flag_values=FLAGS)
flags.mark_flag_as_required('hub', flag_values=FLAGS)
flags.mark_flags_as_mutual_exclusive(['work_dir', 'module'], required=True, flag_values=FLAGS)
flags.register_multi_flags_validator(
    ['work_dir', 'publisher', 'name'],
    lambda values: not values['work_dir'] or (values['publisher'] and values['name']),
    '--work_dir needs --publisher and --name', flag_values=FLAGS)


def main(values, command):
  if values.module:
    from export import hub
    published = [publish_module(
        hub.resolve(values.module), values.hub, values.publisher, values.name, values.version,
        values.trust, values.sign)]
  else:
    published = publish_runs(
        values.work_dir, values.hub, values.publisher, values.name, values.version or 1,
        values.parent, values.licence, command, values.predictor, values.sign)
  print(json.dumps(published))


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
