"""Search and growth on measures that are known beforehand: what is chosen, and what a budget leaves."""

from __future__ import annotations

import math

import pytest
from search_runs import GROWTH, SEARCH, START, made_up

from revit.image.models.asvit import AsViT
from revit.image.models.genotype import PUBLISHED, Genotype, num_params
from revit.image.search.grow import at_random, best_of, by_rank, grow, grown_genotypes, rank_sums
from revit.image.search.measure import Measured, OutOfBudget
from revit.image.search.options import BudgetOptions, SearchOptions
from revit.image.search.recipe import draw_growth, draw_searches
from revit.image.search.search import compare, random_topologies, scores, search, statistics, values_of

RATIOS = (0.05, 0.1, 0.15, 0.2)
SIDES = (32, 32)


def measured(*pairs: tuple[float, float]) -> list[Measured]:
    return [Measured((complexity,), (condition,)) for complexity, condition in pairs]


def test_choices_are_a_block_and_a_width():
    choices = grown_genotypes(START.grown(width=22), RATIOS)
    assert len(choices) == 16
    assert {one.width for one in choices} == {23, 24, 25, 26}
    assert {one.depths for one in choices} == {(2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)}
    narrow = grown_genotypes(START.grown(width=8), RATIOS)
    assert [one.width for one in narrow[:3]] == [8, 9, 10]  # 15 % is 9 too
    assert len(narrow) == 12


@pytest.mark.parametrize("text", [str(PUBLISHED["asvit_seed"]), "5,2,3,2|3,1,2,1|2,1,4,1|4,1,6,3|32,9"])
def test_parameters_by_formula(text):
    genotype = Genotype.parse(text)
    own = sum(parameter.numel() for parameter in AsViT(genotype, num_classes=10).parameters())
    assert num_params(genotype, 10) == own


def test_the_smallest_sum_of_ranks_wins():
    three = measured((3.0, 5.0), (2.0, 1.0), (1.0, 4.0))
    assert rank_sums(three) == (2, 1, 3)
    assert best_of(three, rank_sums(three)) == 1


def test_equal_values_share_a_rank():
    assert rank_sums(measured((1.0, 2.0), (1.0, 2.0), (0.5, 3.0))) == (0, 0, 2)


def test_what_cannot_be_measured_comes_last():
    three = measured((9.0, math.nan), (2.0, 1.0), (1.0, 4.0))
    assert rank_sums(three) == (4, 0, 2)


def test_ties_go_to_the_better_value_of_the_measure_that_differs_more():
    wide_complexity = measured((1.0, 1.0), (9.0, 1.5))
    sums = rank_sums(wide_complexity)
    assert sums == (1, 1)
    assert best_of(wide_complexity, sums, "measure") == 1
    assert best_of(wide_complexity, sums, "published") == 0  # the smaller complexity: the wrong way round
    wide_condition = measured((1.0, 1.0), (1.5, 9.0))
    sums = rank_sums(wide_condition)
    assert best_of(wide_condition, sums, "measure") == best_of(wide_condition, sums, "published") == 0


def test_growth_ends_at_its_limit_and_keeps_all_choices():
    heard = []
    growth = grow(GROWTH, START, SIDES, by_rank(GROWTH, made_up), heard.append)
    assert growth.complete
    assert heard == list(growth.steps)
    sizes = [model.params for model in growth.models]
    assert sizes == sorted(sizes)
    assert sizes[-2] < GROWTH.stop_params <= sizes[-1]
    for before, step in zip(growth.models, growth.steps):
        assert sum(step.choice.genotype.depths) == sum(before.genotype.depths) + 1
        assert step.choice.genotype.width == GROWTH.times * step.choice.narrow.width
        record = step.record()
        assert len(record["choices"]) == len(step.choices) >= 8
        sums = [choice["rank_sum"] for choice in record["choices"]]
        assert sums[step.taken] == min(sums)
    assert growth.models[0].genotype.width == 16


def test_no_choice_passes_the_largest_size():
    options = GROWTH.model_copy(update={"max_params": 400e3, "stop_params": 400e3})
    growth = grow(options, START, SIDES, by_rank(GROWTH, made_up))
    assert growth.complete
    assert all(choice.params <= 400e3 for step in growth.steps for choice in step.choices)


def test_budgets_cut_short_and_leave_the_same_beginning():
    whole = grow(GROWTH, START, SIDES, by_rank(GROWTH, made_up))
    cut = grow(GROWTH.model_copy(update={"budget": BudgetOptions(steps=2)}), START, SIDES, by_rank(GROWTH, made_up))
    assert not cut.complete
    assert cut.steps == whole.steps[:2]
    calls = 0

    def tired(genotypes, seed):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OutOfBudget
        return made_up(genotypes, seed)

    assert grow(GROWTH, START, SIDES, by_rank(GROWTH, tired)).steps == whole.steps[:2]
    calls = 3
    assert grow(GROWTH, START, SIDES, by_rank(GROWTH, tired)).models[-1].genotype.width == 16  # the start, not measured
    calls = 0
    found = search(SEARCH, 3, tired)
    assert (len(found.steps), found.complete) == (3, False)
    few = search(SEARCH.model_copy(update={"budget": BudgetOptions(steps=3)}), 3, made_up)
    assert (few.genotype, few.steps) == (found.genotype, found.steps)


def test_random_growth_is_drawn_from_the_same_choices():
    one, again, other = (grow(GROWTH, START, SIDES, at_random(draw)) for draw in (1, 1, 2))
    assert one.complete
    assert one == again
    assert one.models != other.models
    assert one.steps[0].choices == other.steps[0].choices
    assert one.record()["steps"][0]["taken"]["complexity"] is None


def test_a_search_climbs_its_measure():
    """On measures where more kernels and expansion and fewer heads are better, it finds just that."""
    found = search(SearchOptions(steps=500, width=8), 8, made_up)
    values = values_of(found.genotype)
    assert values["heads"] == 16
    assert values["K1"] >= 7
    assert sum(values[f"E{stage}"] for stage in (1, 2, 3, 4)) >= 18
    assert found.steps[-1].entropy < 8 < 15 < found.steps[0].entropy
    result = compare(found.genotype, 8, 30, 1, 8, made_up)
    assert result["share_beaten"] == 1


def test_scores_are_differences_of_rewards():
    three = measured((3.0, 5.0), (2.0, 1.0), (math.nan, 4.0))
    first, second, failed = scores(three)
    assert first - second == pytest.approx(1 - 1)
    assert failed < min(first, second)
    first, second = scores(measured((3.0, 1.0), (2.0, 2.0)))
    assert first - second == pytest.approx(2)


def test_random_topologies_are_different_and_drawn_again():
    drawn = random_topologies(40, 1, 8)
    assert len(set(drawn)) == 40
    assert drawn == random_topologies(40, 1, 8)


def test_statistics_are_the_papers_kind():
    table = statistics([Genotype.parse("8,2,3|4,1,2|4,1,4|4,1,6|32"), Genotype.parse("6,2,3|4,1,2|4,1,4|4,1,6|64")])
    assert table["K1"] == pytest.approx((7.0, 1 / 7))
    assert table["heads"][0] == 48
    assert table["E4"] == (6, 0)


def test_figures_are_drawn(tmp_path):
    found = search(SEARCH, 3, made_up)
    draw_searches(
        [found, search(SEARCH.model_copy(update={"budget": BudgetOptions(steps=1)}), 4, made_up)], tmp_path / "a.png"
    )
    growth = grow(GROWTH, START, SIDES, by_rank(GROWTH, made_up))
    draw_growth(growth, [grow(GROWTH, START, SIDES, at_random(1))], tmp_path / "deeper" / "b.png")
    for name in ("a.png", "deeper/b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
