"""A SavedModel is a program: what it could do besides arithmetic, read before it is loaded."""

from export import graphs

# Ops that reach files, sockets, other processes or Python.
REACHING_OUT = frozenset('''
ReadFile WriteFile MatchingFiles FixedLengthRecordReader FixedLengthRecordReaderV2
TextLineReader TextLineReaderV2 TFRecordReader TFRecordReaderV2 WholeFileReader
WholeFileReaderV2 FixedLengthRecordDataset FixedLengthRecordDatasetV2 TextLineDataset
TFRecordDataset TFRecordDatasetV2 CSVDataset CSVDatasetV2 MatchingFilesDataset SaveDataset
SaveDatasetV2 LoadDataset SnapshotDataset SnapshotDatasetV2 SnapshotDatasetReader
ListSnapshotChunksDataset CacheDataset CacheDatasetV2 DatasetToTFRecord RecordInput
ExperimentalDatasetToTFRecord ExperimentalCSVDataset ExperimentalSqlDataset
ExperimentalLMDBDataset ExperimentalMatchingFilesDataset InitializeTableFromTextFile
InitializeTableFromTextFileV2 LoadAndRemapMatrix CreateSummaryFileWriter
CreateSummaryDbWriter ImportEvent PyFunc PyFuncStateless EagerPyFunc LoadLibrary RpcCall
RpcClient RpcServer RpcServerStart RpcServerRegister DebugIdentity DebugIdentityV2
DebugIdentityV3 DebugNanCount DebugNumericSummary DebugNumericSummaryV2 PrintV2 Print
DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4
RegisterDataset RegisterDatasetV2 BigQueryReader GenerateBigQueryReaderPartitions
LMDBDataset LMDBReader SqlDataset DecodeProtoV2 EncodeProto FileSystemSetConfiguration
DistributedSave Save SaveSlices Restore RestoreSlice XlaLaunch TPUExecute CollectiveGather
Send Recv
'''.split())

# Every SavedModel saves and restores its own variables, in the functions of its saver or in
# its main graph, which loading as TensorFlow 2 runs with the model's own path. Anywhere else
# they could name any file.
CHECKPOINTING = frozenset(('SaveV2', 'RestoreV2', 'MergeV2Checkpoints'))
_SAVER = ('__inference__traced_save', '__inference__traced_restore')


def ops_reaching_out(path):
  """The names of such ops in any graph or function of a SavedModel, sorted.

  Args:
    path: folder of the SavedModel.

  Raises:
    ValueError: as `export.graphs.read`.
  """
  found = set()
  for graph in (meta.graph_def for meta in graphs.read(path).meta_graphs):
    found.update(REACHING_OUT.intersection(node.op for node in graph.node))
    for function in graph.library.function:
      ops = {node.op for node in function.node_def}
      found |= ops & REACHING_OUT
      if not function.signature.name.startswith(_SAVER):
        found |= ops & CHECKPOINTING
        # Nor may it call the saver's functions, or functions of its own under such a name.
        called = {value.func.name for node in function.node_def
                  for value in node.attr.values() if value.HasField('func')}
        found.update(name for name in called if name.startswith(_SAVER))
  return sorted(found)
