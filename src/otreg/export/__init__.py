"""A trained model as a folder for the Hugging Face Hub: weights, processor, card and code.

`export_model("runs/first", "out", licence="apache-2.0")` writes it, `push_folder` uploads it; see
docs/hub.md.
"""

from otreg.export.code import code_files
from otreg.export.folder import export_model
from otreg.export.push import push_folder

__all__ = ["code_files", "export_model", "push_folder"]
