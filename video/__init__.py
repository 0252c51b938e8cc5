"""Action recognition on the shared core: decoding, TimeSformer, ReViT-TimeSformer. Imports `revit.common` only."""

if __name__ == "video":
    raise ImportError(
        "'video' was imported without its root, which would make a second copy of every class in it. "
        "Install the project (make install) and import 'revit.video' instead."
    )
