#!/usr/bin/env bash
# overcomplete 0.3.0 and matplotlib 3.11.2: a fresh installation of overcomplete cannot be imported.
#
# overcomplete asks for matplotlib of any version, and its drawings call matplotlib.cm.get_cmap when they are imported,
# which matplotlib has removed. import overcomplete imports the drawings, so that also its SAEs cannot be used, nor a
# whole SAE be loaded that torch.save wrote. matplotlib before 3.9 has the function.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU:
#   matplotlib 3.11.2: AttributeError: module 'matplotlib.cm' has no attribute 'get_cmap'
#   matplotlib 3.8.4: imported, BatchTopKSAE
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 overcomplete==0.3.0 matplotlib==3.11.2
cat > "$work/imports.py" <<'PYTHON'
import sys
from types import ModuleType

import matplotlib

# Networks of others, which are not used here: they need a torchvision for this torch.
models = sys.modules["overcomplete.models"] = ModuleType("models")
models.__getattr__ = lambda name: None
version, expected = matplotlib.__version__, sys.argv[1]
try:
    from overcomplete.sae import BatchTopKSAE
except AttributeError as error:
    answer = f"AttributeError: {error}"
else:
    answer = f"imported, {BatchTopKSAE.__name__}"
print(f"matplotlib {version}: {answer}")
assert answer.startswith(expected), f"beside matplotlib {version} the import of overcomplete ends otherwise now"
PYTHON
"$work/venv/bin/python" "$work/imports.py" "AttributeError: module 'matplotlib.cm' has no attribute 'get_cmap'"
"$work/venv/bin/pip" install --quiet matplotlib==3.8.4
"$work/venv/bin/python" "$work/imports.py" imported
