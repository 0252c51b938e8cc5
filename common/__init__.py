"""What pictures and clips share: tokens, embeddings, layers, losses, data policy, engine, reports."""

if __name__ == "common":
    raise ImportError(
        "'common' was imported without its root, which would make a second copy of every class in it. "
        "Install the project (make install) and import 'revit.common' instead."
    )
