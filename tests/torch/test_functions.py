"""The pure functions: every rule against its restatement, every error, half precision, autograd, and no reading."""

import inspect
import itertools
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch

import gc_core
import gc_torch as gct

from . import restatement as restated

# 0-d to 5-d, out first and out last, negative and several axes.
CASES = [
    ((), None),
    ((5,), None),
    ((5,), 0),
    ((4, 3), 1),
    ((4, 3), -1),
    ((3, 4), 0),
    ((3, 4), (0, 1)),
    ((2, 3, 4), (1, 2)),
    ((2, 3, 4), (-3, 2)),
    ((3, 2, 2, 3), (1, 2, 3)),
    ((2, 2, 3, 4), (0, 1, 2)),
    ((2, 3, 2, 2), 1),
    ((3, 2, 1, 2, 2), (1, 2, 3, 4)),
    ((2, 1, 3, 2, 2), (-1, 0, 3)),
    ((1, 4), 0),
    ((0, 3), 1),
    ((3, 0), 1),
]


def arrays(shape, count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) + 0.5 for _ in range(count)]


def layouts_of(array):
    """The same numbers, contiguous and not."""
    tensor = torch.from_numpy(np.array(array))
    yield tensor
    if tensor.ndim:
        yield tensor.movedim(0, -1).contiguous().movedim(-1, 0)
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), torch.nan, dtype=tensor.dtype)
        wide[..., 1::2] = tensor
        yield wide[..., 1::2]
    if tensor.ndim == 4:
        yield tensor.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_centralize(shape, axis):
    (array,) = arrays(shape, 1)
    expected = restated.phi(array, axis)
    for tensor in layouts_of(array):
        kept = tensor.clone()
        result = gct.centralize(tensor, axis)
        assert result.shape == tensor.shape and result.dtype == tensor.dtype
        # sums of at most 30 numbers of magnitude 5
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-14)
        assert torch.equal(tensor, kept)
        assert result.numel() == 0 or result.data_ptr() != tensor.data_ptr()


SGDM = [
    dict(momentum=momentum, dampening=dampening, nesterov=nesterov, weight_decay=decay, decoupled=decoupled, gc_on=on)
    for (momentum, dampening, nesterov) in ((0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.9, False), (0.9, 0.0, True))
    for decay, decoupled in ((0.0, False), (0.3, False), (0.3, True))
    for on in ("gradient", "update")
]
ADAM = [
    dict(amsgrad=amsgrad, weight_decay=decay, decoupled=decoupled, gc_on=on, betas=betas, eps=eps)
    for amsgrad in (False, True)
    for decay, decoupled in ((0.0, False), (0.3, False), (0.3, True))
    for on in ("gradient", "update")
    for betas, eps in (((0.9, 0.999), 1e-8), ((0.0, 0.5), 1e-3))
]


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_sgdm_update(shape, axis):
    w0, *grads = arrays(shape, 4)
    for options, tensors in zip(SGDM, itertools.cycle(layouts_of(w0)), strict=False):
        w, state = tensors, gct.sgdm_init(tensors)
        expected, m = w0, np.zeros(shape)
        for array in grads:
            grad = torch.from_numpy(np.array(array))
            kept = [x.clone() for x in (w, grad, state.momentum_buffer)]
            new, new_state = gct.sgdm_update(w, grad, state, lr=0.1, axis=axis, **options)
            assert all(map(torch.equal, kept, (w, grad, state.momentum_buffer)))
            w, state = new, new_state
            expected, m = restated.sgdm(expected, array, m, lr=0.1, axis=axis, **options)
            np.testing.assert_allclose(w.numpy(), expected, rtol=0, atol=1e-13, err_msg=str(options))
            np.testing.assert_allclose(state.momentum_buffer.numpy(), m, rtol=0, atol=1e-13, err_msg=str(options))


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_adam_update(shape, axis):
    w0, *grads = arrays(shape, 4)
    for options, tensors in zip(ADAM, itertools.cycle(layouts_of(w0)), strict=False):
        w, state = tensors, gct.adam_init(tensors, amsgrad=options["amsgrad"])
        expected, t, m, v, top = w0, 0, *(np.zeros(shape) for _ in range(3))
        for array in grads:
            w, state = gct.adam_update(w, torch.from_numpy(np.array(array)), state, lr=0.1, axis=axis, **options)
            expected, t, m, v, top = restated.adam(expected, array, t, m, v, top, lr=0.1, axis=axis, **options)
            assert state.step == t
            for got, wanted in ((state.exp_avg, m), (state.exp_avg_sq, v), (state.max_exp_avg_sq, top)):
                if got is not None:
                    np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=1e-13, err_msg=str(options))
            # ĝ is known to 1e-15, and is divided by √v; where GC leaves ĝ = 0 up to rounding, w is not determined
            certain = np.abs(m) > 1e-6
            np.testing.assert_allclose(w.numpy()[certain], expected[certain], rtol=0, atol=1e-9, err_msg=str(options))
            w = torch.from_numpy(np.where(certain, w.numpy(), expected))


def test_a_wrong_axis_is_noticed():
    w, grad = arrays((4, 3), 2)
    tensors = torch.from_numpy(w), torch.from_numpy(grad)
    for wrong in (0, (0, 1), None):
        got, _ = gct.sgdm_update(*tensors, gct.sgdm_init(tensors[0]), lr=0.1, axis=wrong)
        expected, _ = restated.sgdm(w, grad, np.zeros(w.shape), lr=0.1, axis=1)
        assert np.abs(got.numpy() - expected).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_float32_update_rounded_once(dtype):
    torch.manual_seed(0)
    w, grad = (torch.randn(4, 33) + 30).to(dtype), (torch.randn(4, 33) + 30).to(dtype)  # |mean| ≫ spread
    wide = w.float(), grad.float()
    assert torch.equal(gct.centralize(grad, 1), gct.centralize(wide[1], 1).to(dtype))
    naive = grad - grad.mean(1, keepdim=True)
    assert (naive - gct.centralize(grad, 1)).abs().max() > 3e-3  # a mean in the gradient's own dtype is seen
    for options in SGDM:
        got, state = gct.sgdm_update(w, grad, gct.sgdm_init(w), lr=0.1, axis=1, **options)
        wanted, wide_state = gct.sgdm_update(*wide, gct.sgdm_init(wide[0]), lr=0.1, axis=1, **options)
        assert torch.equal(got, wanted.to(dtype))
        assert torch.equal(state.momentum_buffer, wide_state.momentum_buffer.to(dtype))
    for options in ADAM:
        amsgrad = options["amsgrad"]
        got, state = gct.adam_update(w, grad, gct.adam_init(w, amsgrad=amsgrad), lr=0.1, axis=1, **options)
        wanted, wide_state = gct.adam_update(*wide, gct.adam_init(wide[0], amsgrad=amsgrad), lr=0.1, axis=1, **options)
        assert torch.equal(got, wanted.to(dtype))
        assert torch.equal(state.exp_avg_sq, wide_state.exp_avg_sq.to(dtype))


def test_autograd():
    torch.manual_seed(0)
    w, grad, m, v = (torch.randn(3, 4, dtype=torch.float64) for _ in range(4))
    v = v.square() + 0.1
    inputs = tuple(x.requires_grad_() for x in (w, grad, m, v))
    assert torch.autograd.gradcheck(lambda g: gct.centralize(g, 1), (grad,))

    def sgdm(w, grad, m, v):
        new, state = gct.sgdm_update(w, grad, gct.SGDMState(m), lr=0.1, axis=1, weight_decay=0.1, nesterov=True)
        return new, state.momentum_buffer

    def adam(w, grad, m, v):
        state = gct.AdamState(3, m, v, v * 0.5)
        new, state = gct.adam_update(w, grad, state, lr=0.1, axis=1, weight_decay=0.1, amsgrad=True, gc_on="update")
        return new, state.exp_avg, state.exp_avg_sq

    assert torch.autograd.gradcheck(sgdm, inputs)
    assert torch.autograd.gradcheck(adam, inputs)


def test_the_compiler_sees_one_graph_also_where_shapes_and_numbers_change():
    def step(w, lr):
        axis = gct.fan_in_axes(w.shape, "out_first")
        w, _ = gct.sgdm_update(w, gct.centralize(w, axis), gct.sgdm_init(w), lr=lr, axis=axis)
        return gct.adam_update(w, w, gct.adam_init(w), lr=lr, axis=axis)[0]

    compiled = torch.compile(step, fullgraph=True, backend="eager", dynamic=True)
    for rows, lr in ((3, 0.1), (5, 0.2)):
        w = torch.arange(4.0 * rows).reshape(rows, 4).sin()
        assert torch.equal(compiled(w, lr), step(w, lr))


def test_numbers_may_be_tensors_and_nothing_is_read():
    torch.manual_seed(0)
    w, grad = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)

    def number(value, device="cpu"):
        return torch.tensor(value, dtype=torch.float64, device=device)

    sgdm = dict(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.2)
    adam = dict(lr=0.1, eps=1e-3, weight_decay=0.2)
    for decoupled, on in itertools.product((False, True), ("gradient", "update")):
        other = dict(axis=1, decoupled=decoupled, gc_on=on)
        plain, _ = gct.sgdm_update(w, grad, gct.sgdm_init(w), **sgdm, **other)
        read, _ = gct.sgdm_update(w, grad, gct.sgdm_init(w), **{k: number(v) for k, v in sgdm.items()}, **other)
        torch.testing.assert_close(read, plain, rtol=0, atol=1e-14)
        betas = (0.9, 0.99)
        plain, _ = gct.adam_update(w, grad, gct.adam_init(w), **adam, betas=betas, **other)
        numbers = {k: number(v) for k, v in adam.items()}
        read, _ = gct.adam_update(w, grad, gct.adam_init(w), **numbers, betas=tuple(map(number, betas)), **other)
        torch.testing.assert_close(read, plain, rtol=0, atol=1e-14)
        # a tensor of the device "meta" has no value: whoever reads it fails
        far = torch.empty(3, 4, device="meta")
        lr, beta = number(0.1, "meta"), number(0.9, "meta")
        gct.sgdm_update(far, far, gct.sgdm_init(far), lr=lr, momentum=beta, weight_decay=lr, **other)
        gct.adam_update(far, far, gct.adam_init(far), lr=lr, betas=(beta, beta), weight_decay=lr, eps=lr, **other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_numbers_in_a_narrow_dtype_are_computed_with_in_that_of_the_update(dtype):
    torch.manual_seed(0)
    w, grad = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    near_one = torch.tensor(0.99, dtype=dtype)
    narrow, wide = dict(axis=1, betas=(near_one, near_one)), dict(axis=1, betas=(float(near_one),) * 2)
    state = gct.adam_init(w)._replace(step=3)
    for (got, got_state), (wanted, wanted_state) in (
        (gct.adam_update(w, grad, state, **narrow), gct.adam_update(w, grad, state, **wide)),
        (
            gct.sgdm_update(w, grad, gct.sgdm_init(w), lr=0.1, axis=1, dampening=near_one / 3),
            gct.sgdm_update(w, grad, gct.sgdm_init(w), lr=0.1, axis=1, dampening=float(near_one / 3)),
        ),
    ):
        # A handful of roundings in float64, of numbers below 4; the bias corrections may lose a factor of 100.
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
        for one, other in zip(got_state, wanted_state, strict=True):
            if isinstance(one, torch.Tensor):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_bias_correction_of_a_tensor_is_not_a_difference():
    beta = torch.tensor(0.999, dtype=torch.float32)
    from gc_torch.adam import bias_correction

    exact = 1 - float(beta)
    assert abs(float(bias_correction(beta, 1)) / exact - 1) < 3e-7
    assert abs(float(1 - beta) / exact - 1) < 3e-7  # exact here …
    assert abs(float(1 - beta**3) / -np.expm1(3 * np.log(float(beta))) - 1) > 3e-6  # … and cancels here
    assert abs(float(bias_correction(beta, 3)) / -np.expm1(3 * np.log(float(beta))) - 1) < 3e-7


def test_nan_and_infinity_spoil_their_own_weight_vector_and_no_warning_is_printed():
    grad = torch.ones(3, 4)
    grad[0, 1], grad[1, 2] = torch.nan, torch.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = gct.centralize(grad, 1)
    assert not result[:2].isfinite().any() and torch.equal(result[2], torch.zeros(4))


def test_complex():
    torch.manual_seed(0)
    w, grad = torch.randn(2, 3, dtype=torch.complex128), torch.randn(2, 3, dtype=torch.complex128)
    expected = grad - (grad.real.sum(1) / 3 + 1j * grad.imag.sum(1) / 3)[:, None]
    torch.testing.assert_close(gct.centralize(grad, 1), expected)
    new, _ = gct.sgdm_update(w, grad, gct.sgdm_init(w), lr=0.5, axis=1)
    torch.testing.assert_close(new, w - 0.5 * expected)
    with pytest.raises(TypeError, match="complex"):
        gct.adam_init(w)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
def test_arrays_go_to_numpy_and_back(dtype):
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    array = np.arange(12).reshape(3, 4).astype(dtype)
    array.flags.writeable = False
    for one in (array, array.T, array[::-1, ::2], array[0, 0].reshape(())):
        back = gct.to_numpy(gct.from_numpy(one))
        assert back.dtype == dtype and back.shape == one.shape
        np.testing.assert_array_equal(back.astype(np.complex128), one.astype(np.complex128))


X = torch.zeros(2, 3)
STATE = gct.sgdm_init(X)
ADAM_STATE = gct.adam_init(X)
BAD = [
    (lambda: gct.centralize(np.zeros((2, 3)), 1), TypeError, "grad must be a torch.Tensor"),
    (lambda: gct.centralize(X.int(), 1), TypeError, "int32"),
    (lambda: gct.centralize(X.bool(), 1), TypeError, "bool"),
    (lambda: gct.centralize(X.to_sparse(), 1), TypeError, "sparse"),
    (lambda: gct.centralize(X, 2), ValueError, "out of range"),
    (lambda: gct.centralize(X, (0, -2)), ValueError, "once"),
    (lambda: gct.centralize(X, ()), ValueError, "at least one"),
    (lambda: gct.centralize(X, 1.0), TypeError, "axis"),
    (lambda: gct.centralize(X[0, 0], 0), ValueError, "0-d"),
    (lambda: gct.centralize(X), TypeError, "axis"),
    (lambda: gct.sgdm_init(X.long()), TypeError, "int64"),
    (lambda: gct.sgdm_update(X, X[0], STATE, lr=0.1, axis=1), ValueError, "shape"),
    (lambda: gct.sgdm_update(X, X.double(), STATE, lr=0.1, axis=1), ValueError, "dtype"),
    (lambda: gct.sgdm_update(X, X.to("meta"), STATE, lr=0.1, axis=1), ValueError, "device"),
    (lambda: gct.sgdm_update(X, X, ADAM_STATE, lr=0.1, axis=1), TypeError, "SGDMState"),
    (lambda: gct.sgdm_update(X, X, gct.sgdm_init(X[0]), lr=0.1, axis=1), ValueError, "momentum_buffer"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=-0.1, axis=1), ValueError, "lr"),
    (lambda: gct.sgdm_update(X, X, STATE, lr="0.1", axis=1), TypeError, "lr"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=torch.ones(2), axis=1), TypeError, "lr"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=torch.tensor(True), axis=1), TypeError, "lr must be .*bool"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=float("nan"), axis=1), ValueError, "lr"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=0.1, axis=1, momentum=-1), ValueError, "momentum"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=0.1, axis=1, momentum=0, nesterov=True), ValueError, "nesterov"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=0.1, axis=1, dampening=0.1, nesterov=True), ValueError, "nesterov"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=0.1, axis=1, gc_on="weights"), ValueError, "gc_on"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=0.1, axis=1, gc_on=None), TypeError, "gc_on"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=0.1, axis=1, weight_decay=-1), ValueError, "weight_decay"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=0.1, axis=1, centralise=True), TypeError, "centralise"),
    (lambda: gct.sgdm_update(X, X, STATE, lr=0.1), TypeError, "axis"),
    (lambda: gct.adam_update(X, X, STATE, axis=1), TypeError, "AdamState"),
    (lambda: gct.adam_update(X, X, ADAM_STATE, axis=1, amsgrad=True), ValueError, "amsgrad"),
    (lambda: gct.adam_update(X, X, ADAM_STATE, axis=1, betas=(0.9, 1.0)), ValueError, "betas"),
    (lambda: gct.adam_update(X, X, ADAM_STATE, axis=1, betas=0.9), TypeError, "betas"),
    (lambda: gct.adam_update(X, X, ADAM_STATE, axis=1, betas=(0.9,)), ValueError, "betas"),
    (lambda: gct.adam_update(X, X, ADAM_STATE, axis=1, eps=-1), ValueError, "eps"),
    (lambda: gct.adam_update(X, X, ADAM_STATE._replace(step=1.5), axis=1), TypeError, "step"),
    (lambda: gct.adam_update(X, X, ADAM_STATE._replace(step=-1), axis=1), ValueError, "step"),
    (lambda: gct.fan_in_axes((2, 3), "out_middle"), ValueError, "layout"),
    (lambda: gct.from_numpy([1.0]), TypeError, "array must be a NumPy array; got list"),
    (lambda: gct.to_numpy(np.ones(2)), TypeError, "array must be a torch.Tensor; got ndarray"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD)
def test_bad_calls(call, error, text):
    with pytest.raises(error, match=text):
        call()
    assert not X.any() and not STATE.momentum_buffer.any() and not ADAM_STATE.exp_avg.any()


def test_the_rules_are_shared_with_the_reference():
    assert gct.SGDMState is gc_core.SGDMState and gct.AdamState is gc_core.AdamState
    assert gct.fan_in_axes is gc_core.fan_in_axes


def test_the_signatures_are_those_of_the_reference():
    functions = ("centralize", "sgdm_init", "sgdm_update", "adam_init", "adam_update", "from_numpy", "to_numpy")
    for name in functions:
        ours, theirs = (inspect.signature(getattr(package, name)).parameters.values() for package in (gct, gc_core))
        assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs], name
