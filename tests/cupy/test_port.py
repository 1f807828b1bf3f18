"""gc_cupy's array code on NumPy, with its kernels on the host, under the conformance suite, errors included."""

from gc_conformance import PROPERTIES, load_port, run


def test_the_suite():
    result = run("tests.cupy.gc_cupy_on_numpy", level="contract", profile="quick")
    assert "not CuPy" in load_port("tests.cupy.gc_cupy_on_numpy").name
    assert [(one.id, one.message) for one in result.results if one.status == "failed"] == []
    assert result.dtypes == ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    absent = {one.id for one in result.results if one.status == "not provided"}
    assert {one for one in absent if not one.startswith("layers.")} == {
        "theory.projection_matrix",  # gc_core has it
        "theory.projection_identities",
        "theory.matrix_form",
        "errors.complex_refused_by_name",  # they are taken
        *(id for id in PROPERTIES if id.startswith("switch.")),  # for optimizers of others
        *(id for id in PROPERTIES if id.startswith(("optimizer.kahan", "optimizer.stochastic"))),  # it has neither
    }
