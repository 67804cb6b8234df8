"""Where a backbone comes from."""

import os

# Before h5py is first imported: libhdf5 loads no filter from a folder, whatever a file asks for.
os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")
