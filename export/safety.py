"""A SavedModel is a program: what it could do besides arithmetic, read before it is loaded."""

import os

# Ops that reach files, sockets, other processes or Python. Reading and writing checkpoints
# (RestoreV2, SaveV2 and their kin) belongs to every SavedModel and runs on its own files.
REACHING_OUT = frozenset('''
ReadFile WriteFile MatchingFiles FixedLengthRecordReader FixedLengthRecordReaderV2
TextLineReader TextLineReaderV2 TFRecordReader TFRecordReaderV2 WholeFileReader
WholeFileReaderV2 FixedLengthRecordDataset FixedLengthRecordDatasetV2 TextLineDataset
TFRecordDataset TFRecordDatasetV2 SaveDataset SaveDatasetV2 LoadDataset SnapshotDataset
SnapshotDatasetV2 CacheDataset CacheDatasetV2 InitializeTableFromTextFile
InitializeTableFromTextFileV2 CreateSummaryFileWriter PyFunc PyFuncStateless EagerPyFunc
LoadLibrary RpcCall RpcClient RpcServer RpcServerStart RpcServerRegister DebugIdentity
DebugIdentityV2 DebugIdentityV3 PrintV2 Print DataServiceDataset DataServiceDatasetV2
DataServiceDatasetV3 DataServiceDatasetV4 RegisterDataset RegisterDatasetV2
BigQueryReader GenerateBigQueryReaderPartitions LMDBDataset LMDBReader SqlDataset
XlaLaunch TPUExecute CollectiveGather Send Recv
'''.split())


def ops_reaching_out(path):
  """The names of such ops in any graph or function of a SavedModel, sorted.

  Args:
    path: folder of the SavedModel.

  Raises:
    ValueError: saved_model.pb is missing or cannot be parsed.
  """
  from google.protobuf import message
  from tensorflow.core.protobuf import saved_model_pb2
  saved = saved_model_pb2.SavedModel()
  file = os.path.join(path, 'saved_model.pb')
  try:
    with open(file, 'rb') as content:
      saved.ParseFromString(content.read())
  except FileNotFoundError:
    raise ValueError(f'{path} is not a SavedModel: it has no saved_model.pb.') from None
  except message.DecodeError:
    raise ValueError(f'{file} is truncated or no SavedModel.') from None
  found = set()
  for graph in (meta.graph_def for meta in saved.meta_graphs):
    found.update(node.op for node in graph.node)
    for function in graph.library.function:
      found.update(node.op for node in function.node_def)
  return sorted(found & REACHING_OUT)
