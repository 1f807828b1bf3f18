"""Formulas are drawn as they are written."""

from docs.extensions.mathml import formula


def test_a_bold_digit_stays_bold():
    # Browsers draw no `mathvariant="bold"`: the vector of ones would look like the number.
    shown = formula(r"\mathrm{mean}(g)\,\mathbf{1} + \mathbf 1^\mathsf{T} w + 10")
    assert shown.count("<mn>𝟏</mn>") == 2 and 'mathvariant="bold"' not in shown and "<mn>10</mn>" in shown
