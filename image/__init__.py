"""Image classification on the shared core. Imports `revit.common` only."""

if __name__ == "image":
    raise ImportError(
        "'image' was imported without its root, which would make a second copy of every class in it. "
        "Install the project (make install) and import 'revit.image' instead."
    )
