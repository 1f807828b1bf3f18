"""`python -m examples.optimizers`: GC in front of all of torch.optim and of Optax, into docs/optimizers.md."""

import warnings
from importlib import metadata

from examples.optimizers import of_torch, page


def main() -> None:
    warnings.simplefilter("ignore")
    torch_found = [of_torch.look_at(name) for name in of_torch.names()]
    from examples.optimizers import of_optax  # PyTorch is done by then

    of_optax.jax.config.update("jax_enable_x64", True)
    optax_found = []
    for before, some in (("", of_optax.OPTAX), ("contrib.", of_optax.CONTRIB)):
        for name, (step, make) in some.items():
            optax_found.append(of_optax.look_at(before + name, step, make))
            print(optax_found[-1], flush=True)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "jax", "optax"))
    page.write(torch_found, optax_found, versions)
    print(f"{len(torch_found) + len(optax_found)} optimizers; see {page.PAGE}")


if __name__ == "__main__":
    main()
