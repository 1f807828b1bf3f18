"""What differs between releases of CuPy. The oldest release is that of `gc_core.versions`."""

from gc_core import versions

versions.require("gc_cupy", "cupy")  # before anything else of it is looked for
