"""Runs the checks of every composition over the cells of the matrix: some in the fast tests, all in the slow ones."""

from __future__ import annotations

import pytest
from composition_contracts import COMPOSITION_CHECKS
from composition_specimens import (
    BESIDE_THE_MATRIX,
    FAST_CELLS,
    MATRIX,
    MATRIX_CONDITIONS,
    MATRIX_DECODERS,
)


@pytest.mark.parametrize("cell", FAST_CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("check", COMPOSITION_CHECKS, ids=lambda check: check.__name__)
def test_cell(check, cell):
    check(cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [*MATRIX, *BESIDE_THE_MATRIX], ids=lambda cell: cell.name)
def test_whole_matrix(cell):
    for check in COMPOSITION_CHECKS:
        check(cell)


def test_the_matrix_is_whole_and_the_fast_cells_meet_each_part():
    assert len(MATRIX) == 8 * 5 * 3
    assert {cell.condition for cell in FAST_CELLS} >= set(MATRIX_CONDITIONS)
    assert {cell.decoder for cell in FAST_CELLS} >= set(MATRIX_DECODERS)
    assert {cell.num_latents for cell in FAST_CELLS} == {None, 1, 5}
