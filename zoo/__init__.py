"""The upstream side: tasks, label trees and slices, backbones, adapters, trainers.

Importing this package is cheap and quiet: TensorFlow and Keras are imported by the
modules that need them, and only when a function of theirs runs.
"""

import os

# TensorFlow's C++ side prints device notes on stderr when it loads, unless told before; what
# goes wrong reaches Python as an exception anyway.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
