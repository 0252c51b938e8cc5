"""Find an As-ViT: search a topology without training, grow it, and train it if the configuration says how."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.config.load import load
from revit.common.system.command_line import add_config, parse, parser, tool


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "",
        "python tools/search_asvit.py --cfg configs/image/demos/asvit.yaml\n"
        "python tools/search_asvit.py --cfg configs/image/demos/asvit.yaml run.dir=runs/five search.seeds=[0,1,2,3,4] "
        "baselines.topologies=32 train=null",
    )
    add_config(arguments)
    values = parse(arguments, argv)

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    from revit.image.search.options import AsViTSearchRun
    from revit.image.search.recipe import SearchRecipe, print_results

    recipe = SearchRecipe(load(AsViTSearchRun, values.cfg, values.overrides))
    found = recipe.run()
    print_results(recipe.searches, recipe.comparisons, recipe.growth)
    print(f"genotype: {found}")
    print(f"results: {recipe.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
