"""Every kernel is compiled by NVRTC, which needs no GPU, through CuPy's own binding and with CuPy's own options."""

import re

import pytest
from cupy.cuda import nvrtc

from gc_cupy import kernels


def compiled(code, arch, *options):
    """(what NVRTC said, the mangled name of each kernel, the machine code)."""
    program = nvrtc.createProgram(code, "kernels.cu", (), ())
    try:
        for name in kernels.NAMES:
            nvrtc.addNameExpression(program, name)
        try:
            nvrtc.compileProgram(
                program, ("--std=c++17", "--device-as-default-execution-space", f"-arch={arch}", *options)
            )
        except nvrtc.NVRTCError:
            pytest.fail(nvrtc.getProgramLog(program))
        names = {name: nvrtc.getLoweredName(program, name) for name in kernels.NAMES}
        code = nvrtc.getCUBIN(program) if arch.startswith("sm_") else nvrtc.getPTX(program)
        return nvrtc.getProgramLog(program).strip("\0 \n"), names, code
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_every_kernel_compiles(arch):
    assert len(kernels.NAMES) == 20  # centralize, sgdm and adam, the last two also over a table, for four types
    log, names, cubin = compiled(kernels.SOURCE, arch, "-Xptxas=-v")
    assert cubin.startswith(b"\x7fELF")
    # Nothing but the report that was asked for.
    assert [line for line in log.splitlines() if not re.match(r"ptxas (info )? *[:.]|ptxas info", line)] == []
    stacks = dict(re.findall(r"Function properties for (\w+)\n.*? (\d+) bytes stack frame", log))
    assert set(stacks) == set(names.values())
    for name, mangled in names.items():
        assert mangled.encode() in cubin
        # The row is kept in registers, not in memory that is only called local.
        assert stacks[mangled] == "0" or "double" in name, f"{name} spills its registers"


def double_precision(code):
    """The kernels whose instructions compute in double precision."""
    _, names, ptx = compiled(code, "compute_80")
    bodies = re.split(r"\.entry ", ptx.decode())[1:]
    found = {re.match(r"\w+", body)[0] for body in bodies if ".f64" in body}
    assert len(bodies) == len(names)
    return {name for name, mangled in names.items() if mangled in found}


def test_only_double_precision_computes_in_double():
    doubles = {name for name in kernels.NAMES if "double" in name}
    assert double_precision(kernels.SOURCE) == doubles
    # The check sees a single factor of 1.0.
    wrong = kernels.SOURCE.replace("e.w - lr * e.x", "e.w - 1.0 * lr * e.x")
    assert double_precision(wrong) == doubles | {name for name in kernels.NAMES if not name.startswith("centralize")}


def test_the_source_is_plain_ascii_and_complete():
    """CuPy writes it in the encoding of the user's language, and caches it without what it would include."""
    assert kernels.SOURCE.isascii()
    assert "#include" not in kernels.SOURCE
