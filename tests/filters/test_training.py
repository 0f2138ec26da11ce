"""Training, thresholds and measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from filters import (
    REFERENCE_RECIPE,
    FilterError,
    FilterNetwork,
    Recipe,
    Records,
    calibration,
    choose_threshold,
    fit,
    measure,
)
from filters.training import loss_of, start_gated, thresholds


def records(n: int, width: int = 8, seed: int = 0) -> Records:
    """Right where the cell and its left neighbour are confident together: a plain threshold cannot say it."""
    source = torch.Generator().manual_seed(seed)
    features = torch.rand(n, width, generator=source)
    right = (features + features.roll(1, -1)) > 1.1
    open_ = torch.rand(n, width, generator=source) > 0.3
    return Records(features, right, open_, torch.ones_like(open_))


def test_learns_what_a_threshold_cannot() -> None:
    train, valid, test = records(1000), records(300, seed=1), records(300, seed=2)
    fitted = fit(train, valid, Recipe(epochs=15, batch=50, lr=0.02, hidden=24))
    said = fitted.network(test.features).sigmoid()
    chosen = choose_threshold(fitted.network(valid.features).sigmoid(), valid, 0.02)
    plain = choose_threshold(valid.features, valid, 0.02)
    mine, alone = measure(said, test, chosen.threshold), measure(test.features, test, plain.threshold)
    assert chosen.false_positives <= 0.02 and mine.false_positives < 0.04
    assert mine.recall > 0.8 and alone.recall < 0.1
    assert calibration(said, test).error < 0.12


def test_the_best_epoch_is_kept_and_repeats() -> None:
    train, valid = records(40), records(200, seed=1)  # few records: it overfits
    recipe = Recipe(epochs=120, batch=10, lr=0.05, decays=False)
    fitted = fit(train, valid, recipe)
    assert fitted.valid_loss == min(valid_loss for _, _, valid_loss in fitted.losses)
    assert fitted.valid_loss == pytest.approx(float(loss_of(fitted.network, valid)), abs=1e-6)
    assert fitted.epoch < 120
    assert torch.equal(fit(train, valid, recipe).network.linear1.weight, fitted.network.linear1.weight)
    last = fit(train, valid, Recipe(epochs=120, batch=10, lr=0.05, decays=False, keep_best=False))
    assert last.epoch == 120 and last.valid_loss > fitted.valid_loss


def test_the_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(records(20), records(10), Recipe(epochs=2))
    assert torch.equal(torch.rand(3), expected)


def test_progress_counts_epochs() -> None:
    for epochs in (1, 7, 130, 250):
        told: list[int] = []
        fit(records(8), records(8), Recipe(epochs=epochs), told.append)
        assert sum(told) == epochs


def test_the_reference_recipe_is_the_notebook() -> None:
    assert (REFERENCE_RECIPE.epochs, REFERENCE_RECIPE.batch, REFERENCE_RECIPE.lr) == (40_000, None, 0.003)
    assert REFERENCE_RECIPE.weight_decay == 0.01 and REFERENCE_RECIPE.hidden is None and REFERENCE_RECIPE.committed
    assert not (REFERENCE_RECIPE.decays or REFERENCE_RECIPE.keep_best or REFERENCE_RECIPE.gated)


def test_only_cells_that_count_have_a_loss() -> None:
    part = records(10)
    inside = part.inside.clone()
    inside[:, 5:] = False
    short = Records(part.features, part.right, part.open & inside, inside)
    network = fit(part, part, Recipe(epochs=1)).network
    for committed, counts in ((False, short.open), (True, short.inside)):
        flipped = Records(short.features, short.right ^ ~counts, short.open, short.inside)
        assert float(loss_of(network, short, committed)) == float(loss_of(network, flipped, committed))
    assert float(loss_of(network, short, True)) != float(loss_of(network, short))


def test_the_first_weights_are_a_threshold() -> None:
    network = FilterNetwork(8)
    with torch.no_grad():
        for linear in (network.linear1, network.linear2):
            linear.weight.zero_()
        start_gated(network)
        z = torch.rand(20, 8)
        assert torch.allclose(network(z), 9 * z - 6, atol=1e-5)


def test_the_gate_needs_few_records() -> None:
    """Where cells are right when they are confident, as with a calibrated model."""

    def calibrated(n: int, seed: int) -> Records:
        part = records(n, seed=seed)
        chance = torch.rand(n, 8, generator=torch.Generator().manual_seed(seed))
        return Records(part.features, chance < part.features, part.open, part.inside)

    train, valid = calibrated(30, 0), calibrated(300, 1)
    gated, random = (fit(train, valid, Recipe(epochs=30, batch=10, gated=g)) for g in (True, False))
    start = fit(train, valid, Recipe(epochs=1, lr=1e-9))
    assert gated.valid_loss < start.valid_loss and gated.valid_loss < random.valid_loss - 0.05


def hand() -> tuple[torch.Tensor, Records]:
    """Ten open cells, sure ones first; the 3rd and the last three are wrong."""
    score = torch.tensor([[0.99, 0.97, 0.95, 0.9, 0.85], [0.8, 0.75, 0.7, 0.6, 0.55]])
    right = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 0, 0, 0]]).bool()
    every = torch.ones_like(right)
    return score, Records(score, right, every, every)


def test_measures_by_hand() -> None:
    score, part = hand()
    m = measure(score, part, 0.85)  # strictly above: four are accepted
    assert (m.precision, m.recall, m.false_positives) == (3 / 4, 3 / 6, 1 / 4)
    assert (m.false_positive_rate, m.accepted) == (1 / 4, 2.0)
    nothing = measure(score, part, 1.0)
    assert (nothing.precision, nothing.recall, nothing.false_positives, nothing.accepted) == (1.0, 0.0, 0.0, 0.0)
    closed = Records(score, part.right, ~part.open, part.inside)
    assert measure(score, closed, 0.1).accepted == 0.0


@pytest.mark.parametrize(
    ("allowed", "accepted"),
    [
        (0.001, 2),  # from the third on there is a wrong one
        (0.2, 7),  # 1 of 5, 6 and 7; 1 of 3 and 4 would be too many, but more are accepted at a lower threshold
        (0.34, 9),  # 3 of 9
        (0.41, 10),
    ],
)
def test_threshold_by_hand(allowed: float, accepted: int) -> None:
    score, part = hand()
    chosen = choose_threshold(score, part, allowed)
    assert int((score > chosen.threshold).sum()) == accepted
    assert chosen == measure(score, part, chosen.threshold)
    for candidate in thresholds().tolist():
        if candidate < chosen.threshold:
            assert measure(score, part, candidate).false_positives > allowed


def test_no_threshold_will_do() -> None:
    score, part = hand()
    wrong = Records(score, torch.zeros_like(part.right), part.open, part.inside)
    chosen = choose_threshold(torch.ones_like(score), wrong, 0.01)
    assert chosen.threshold == 1.0 and chosen.accepted == 0.0
    with pytest.raises(FilterError, match="max_false_positives is 1.5; give a share between 0 and 1"):
        choose_threshold(score, part, 1.5)


def test_calibration_by_hand() -> None:
    score, part = hand()
    found = calibration(score, part, bins=2)
    assert found.count == [10] and found.held == [0.6]
    assert found.said == pytest.approx([float(score.mean())])
    assert found.error == pytest.approx(abs(float(score.mean()) - 0.6))


def test_records_are_kept(tmp_path: Path) -> None:
    part = records(5)
    part.save(tmp_path / "a.safetensors")
    again = Records.load(tmp_path / "a.safetensors")
    assert all(torch.equal(getattr(part, n), getattr(again, n)) for n in ("features", "right", "open", "inside"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert len(Records.cat([part, again])) == 10 and part.take(torch.tensor([3])).width == 8
    (tmp_path / "b.safetensors").write_bytes(b"x")
    with pytest.raises(FilterError, match="holds no filter records; delete it and collect again"):
        Records.load(tmp_path / "b.safetensors")
    for parts in ([], [part, records(5, width=4)]):
        with pytest.raises(FilterError, match="no records, or records of different block widths"):
            Records.cat(parts)


def test_recipes_are_checked() -> None:
    with pytest.raises(FilterError, match="epochs is 0; give a whole number from 1 up"):
        Recipe(epochs=0)
    with pytest.raises(FilterError, match="lr is 0; give a number above 0"):
        Recipe(lr=0)
