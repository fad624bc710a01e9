"""zoo-hub serve: offers a hub to others over HTTP, as TensorFlow Hub does.

Stock clients then load hub.KerasLayer('http://HOST:PORT/publisher/name/version'). Nothing can be
changed through it. Anyone who reaches the port can read all modules; --host is this machine alone
unless you say otherwise. Ctrl-C ends it.
"""

from absl import flags

from export import hub
from zoo import cli

FLAGS = cli.new_flags()
flags.DEFINE_string('root', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_string('host', '127.0.0.1', 'Address to listen on; 0.0.0.0 for all of this machine.',
                    flag_values=FLAGS)
flags.DEFINE_integer('port', 8080, 'Port to listen on; 0 takes a free one.', lower_bound=0,
                     upper_bound=65535, flag_values=FLAGS)
flags.DEFINE_list('names', [], 'Names by which a proxy on this machine may call it for others, '
                  'such as hub.example.org.', flag_values=FLAGS)
flags.DEFINE_string('cache_dir', None, 'Folder where archives of the modules are kept (default: '
                    'expert-zoo/archives in your folder for caches).', flag_values=FLAGS)


def main(values, command):
  del command
  from export import server
  server.serve(values.root, values.host, values.port, values.cache_dir, values.names,
               lambda url: print(f'serving {values.root} on {url}', flush=True))
