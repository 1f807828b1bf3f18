"""gc_jax under the conformance suite, errors included."""

from gc_conformance import PROPERTIES, run

ABSENT = {  # what Flax, Equinox and Optax do not have
    "layers.bilinear",
    "layers.conv_transpose1d",
    "layers.conv_transpose2d",
    "layers.conv_transpose3d",
    "layers.grouped_conv_transpose",
    "layers.depthwise_out_last",
    "layers.recurrent_projection",
    "layers.attention_in_proj",
    "layers.attention_bias_kv",
    "layers.orthogonal",
    "optimizer.dampening",
    "optimizer.amsgrad",
    "theory.projection_matrix",
    "theory.projection_identities",
    "theory.matrix_form",
    "errors.complex_refused_by_name",  # they are taken
    *(id for id in PROPERTIES if id.startswith("switch.")),  # for optimizers of others
}


def test_the_suite(monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")  # a port that is named is loaded in a process of its own
    result = run("gc_jax.port", level="contract", profile="quick")
    assert [(one.id, one.message) for one in result.results if one.status == "failed"] == []
    assert result.dtypes == ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    assert {one.id for one in result.results if one.status == "not provided"} == ABSENT


def test_without_x64_it_claims_what_jax_has(monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    result = run("gc_jax.port", level="contract", profile="quick", only=["numerics.float64_is_float64", "sgdm.rule"])
    assert result.dtypes == ("float16", "bfloat16", "float32", "complex64")
    assert [one.status for one in result.results] == ["not provided", "passed"]
