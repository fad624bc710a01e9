"""Published results on VTAB, to stand beside ours: not measured here.

All are of networks for 224 pixels trained on ImageNet or more, each under settings of its own.
"""

import dataclasses

_VTAB = 'VTAB, arXiv 1910.04867 (docs/data/results.csv of google-research/task_adaptation)'
_BIT = 'big_transfer\'s README, google-research/big_transfer'


@dataclasses.dataclass(frozen=True)
class Published:
  """A row of a published table, test accuracies in percent.

  Attributes:
    name: of the method there.
    protocol: '1k' or 'full'.
    mean: over the 19 tasks.
    groups: by group, where it is published.
    tasks: by title, where it is published.
    source: where it was published.
  """
  name: str
  protocol: str
  mean: float
  groups: dict[str, float]
  tasks: dict[str, float]
  source: str


def _row(name, protocol, mean, groups=(), tasks=(), source=_VTAB):
  names = ('natural', 'specialized', 'structured')
  return Published(name, protocol, mean, dict(zip(names, groups, strict=bool(groups))),
                   dict(tasks), source)


PUBLISHED = (
    _row('BiT-M R152x4', '1k', 73.51, (80.77, 85.67, 61.08), source=_BIT),
    _row('BiT-M R101x3', '1k', 72.65, (80.29, 85.75, 59.40), source=_BIT),
    _row('Sup-Rotation-100%', '1k', 67.97, (73.57, 83.12, 55.48)),
    _row('Sup-100%', '1k', 66.37, (73.46, 82.49, 52.10), {
        'CIFAR-100': 57.0, 'Caltech101': 91.0, 'DTD': 66.0, 'Flowers102': 88.6, 'Pets': 89.9,
        'SVHN': 87.3, 'Sun397': 34.4, 'Camelyon': 80.6, 'EuroSAT': 95.3, 'Resisc45': 80.8,
        'Retinopathy': 73.2, 'Clevr-Count': 41.0, 'Clevr-Dist': 56.1, 'DMLab': 36.3,
        'KITTI-Dist': 70.6, 'dSpr-Loc': 85.7, 'dSpr-Orient': 46.0, 'sNORB-Azim': 45.7,
        'sNORB-Elev': 35.4}.items()),
    _row('Rotation', '1k', 60.45, (53.67, 78.56, 57.32)),
    _row('Exemplar', '1k', 58.02),
    _row('Rel.Pat.Loc', '1k', 53.46),
    _row('Jigsaw', '1k', 52.47),
    _row('From-Scratch', '1k', 43.14, (27.91, 68.94, 43.57)),
    _row('VAE', '1k', 38.24),
    _row('Sup-100%', 'full', 89.74, (86.41, 89.32, 92.87)),
    _row('From-Scratch', 'full', 75.43))
