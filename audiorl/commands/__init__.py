"""The commands of `audiorl`, a module each; `audiorl.cli` lists them."""
