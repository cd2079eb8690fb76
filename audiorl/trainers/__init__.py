"""The trainers: config and trainer of a method in one module; they wire, they do not compute."""
