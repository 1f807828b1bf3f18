"""The step that SGD, Adam and AdamW share: where GC stands in it, and what is checked before anything changes."""

import contextlib
import operator
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from gc_core import checks
from gc_core.plan import Row
from gc_torch import compat, low_precision, memory, path, prepare, printed, step_checks
from gc_torch.kept import Kept, Part
from gc_torch.model_plan import ModelPlan
from gc_torch.owners import CONTAINERS
from gc_torch.pieces import Columns
from gc_torch.plan import quiet_plan
from gc_torch.prepare import Batch
from gc_torch.rows import Rows
from gc_torch.scratch import Scratch
from gc_torch.signature import deciding

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]

OUT_FIRST = "out_first"
Loss = TypeVar("Loss")


class CentralizingOptimizer(torch.optim.Optimizer):
    """What the three optimizers share."""

    kind: ClassVar[str]
    states: ClassVar[tuple[str, ...]]  # by parameter, of the parameter's shape and dtype, but for the compensation

    # -- what each of the three says -------------------------------------------------------------------------------

    def check(self, group: dict[str, Any], *, in_step: bool = False) -> None:
        """Raise if an option of a group is wrong; in a step, only if it would spoil the weights."""
        way = group.get("low_precision")
        checks.low_precision(way)
        checks.seed(group.get("seed", 0))
        if way is not None and group.get("differentiable"):
            raise ValueError(
                f"low_precision must be None where differentiable is set, for rounding has no derivative; got {way!r}"
            )

    def columns(self, group: dict[str, Any]) -> Columns:
        """Parameters with a gradient, their gradients, states, steps and compensations: made where there are none.

        What the optimizer does not have is an empty list.
        """
        raise NotImplementedError

    def torch_step(
        self, group: dict[str, Any], taken: str, columns: Columns, grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        """PyTorch's own step on these columns, with the options of the group."""
        raise NotImplementedError

    def settle(self, taken: str, params: list[Tensor], columns: Columns) -> None:
        """Have the steps as the path wants them."""
        if taken not in (path.FUSED, path.KERNEL):
            return
        steps = columns[2 + len(self.states)]
        for i, p in enumerate(params if steps else ()):  # kept on the host for the other paths, unless asked for
            if steps[i].device != p.device:
                steps[i] = self.state[p]["step"] = steps[i].to(p.device)
            if taken == path.KERNEL and steps[i].dtype not in (torch.float32, torch.float64):
                steps[i] = self.state[p]["step"] = steps[i].float()

    def remember(self, params: list[Tensor], columns: Columns) -> None:
        """Keep what a step has put into the columns, where they are not the state itself."""

    # -- construction ----------------------------------------------------------------------------------------------

    def _groups(self, params: Params, plan: Any, **ours: Any) -> Any:
        """Take the plan, and give the groups for PyTorch's constructor, with options that it may not know."""
        if isinstance(plan, str):
            if plan != OUT_FIRST:
                raise ValueError(f"plan must be {OUT_FIRST!r}, what gc_torch.plan(model) gives, or None; got {plan!r}")
        elif plan is not None and not isinstance(plan, ModelPlan):
            raise TypeError(
                f"plan must be what gc_torch.plan(model) gives, {OUT_FIRST!r}, or None; got {type(plan).__qualname__}"
            )
        self._given_plan = plan
        made = plan if isinstance(plan, ModelPlan) else None
        if isinstance(params, CONTAINERS):  # as for torch.optim: tensors, and no layer
            params = list(params.values()) if isinstance(params, nn.ParameterDict) else list(params)
        elif isinstance(params, nn.Module):
            made = quiet_plan(params) if plan is None else made
            params = list(params.parameters())
        if isinstance(params, Tensor):
            return params  # PyTorch says what is wrong with it
        groups: list[Any] = list(params)
        if groups and isinstance(groups[0], nn.Module):
            made = quiet_plan(groups) if plan is None else made
            groups = list(nn.ModuleList(groups).parameters())
        self._rows_of_plan = Rows(made, declared=plan == OUT_FIRST)
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        return [{**ours, **group} if isinstance(group, dict) else group for group in groups]

    def _made(self, **ours: Any) -> None:
        """What is left to do when PyTorch's constructor is done."""
        self.defaults.update(ours)
        self._start()
        rows = self._rows_of_plan
        plan = self._given_plan
        if isinstance(plan, ModelPlan) and plan.rows:
            params = [p for group in self.param_groups for p in group["params"]]
            rows.refuse_foreign(params)
        del self._given_plan
        self._find_rows(stacklevel=4)
        if any(group["gc_on"] is not None for group in self.param_groups):
            printed.warn_if_left_out(self.plan, plan, stacklevel=5)
        printed.warn_if_idle(self.param_groups, stacklevel=5)

    def _start(self) -> None:
        self._plans = self.__dict__.get("_plans", 0) + 1  # how many there have been: a compiler compares it
        self._scratch = Scratch()
        self._kept = Kept()  # what was prepared in earlier steps
        self._checked: dict[int, tuple[list[Any], tuple[Any, ...]]] = {}  # options of groups that have been found right

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in `torch.optim`; the rows of its parameters are found as at construction."""
        if isinstance(param_group, dict):
            options = {**self.defaults, **param_group}
            if any(options["lr"] is group["lr"] for group in self.param_groups):  # a schedule may have made it
                self.check(options, in_step=True)
                options["lr"] = 0.0
            self.check(options)
        super().add_param_group(param_group)
        if "_kept" not in self.__dict__:  # all of them are found at once, when the constructor is done
            return
        try:
            self._find_rows(stacklevel=3)
        except ValueError:
            self.param_groups.pop()
            raise

    # -- the plan --------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> ModelPlan:
        """What the optimizer does with each of its parameters now. Another plan can be put in its place."""
        names: dict[str, Tensor] = {}
        rows = []
        for i, group in enumerate(self.param_groups):
            for p, row in zip(group["params"], self._rows(i, shapes=True), strict=True):
                if row.name not in names:
                    rows.append(row._replace(frozen=not p.requires_grad))
                    names[row.name] = p
        known = self._rows_of_plan.plan
        return ModelPlan(rows, names, None if known is None else known.model)

    @plan.setter
    def plan(self, plan: ModelPlan | Literal["out_first"]) -> None:
        declared = isinstance(plan, str) and plan == OUT_FIRST
        if not declared and not isinstance(plan, ModelPlan):
            raise TypeError(f"plan must be what gc_torch.plan(model) gives, or {OUT_FIRST!r}; got {plan!r}")
        before = self._rows_of_plan
        rows = Rows(plan if isinstance(plan, ModelPlan) else None, declared=declared)
        rows.refuse_foreign([p for group in self.param_groups for p in group["params"]])
        self._rows_of_plan = rows
        try:
            self._find_rows(stacklevel=3)
        except ValueError:
            self._rows_of_plan = before
            raise
        self._plans += 1
        self._kept.clear()

    def _rows(self, index: int, *, shapes: bool = False) -> tuple[Row, ...]:
        """The rows of a group; those of new parameters are found, by the first of the rules that knows them.

        `shapes`: also those of parameters whose data has another shape than before.
        """
        if torch.compiler.is_compiling():
            return self._rows_shown(index, self._plans)
        return self._rows_now(index, shapes)

    @torch.compiler.assume_constant_result
    def _rows_shown(self, index: int, plans: int) -> tuple[Row, ...]:
        """The rows of what a compiler is shown: of another list of parameters, or plan, it compiles the step anew."""
        return self._rows_now(index, True)

    def _rows_now(self, index: int, shapes: bool) -> tuple[Row, ...]:
        params = self.param_groups[index]["params"]
        rows = self._rows_of_plan.current(index, params, shapes=shapes)
        if rows is None:
            self._find_rows(stacklevel=7)
            rows = self._rows_of_plan.current(index, params)
            assert rows is not None
        return rows

    def _find_rows(self, stacklevel: int) -> None:
        on = any(group.get("gc_on", self.defaults.get("gc_on")) is not None for group in self.param_groups)
        found = self._rows_of_plan.find(self.param_groups, gc=on)
        if on:
            printed.warn_of_guesses(found.guessed, stacklevel + 1)
            printed.warn_of_lost(found.lost, stacklevel + 1)

    # -- copies and checkpoints ------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        with contextlib.suppress(ValueError):  # parameters that have lost their shape: the next step says so
            for i in range(len(self.param_groups)):
                self._rows(i, shapes=True)  # a copy knows of its parameters what is known of these now
        return {**super().__getstate__(), "_rows_of_plan": self._rows_of_plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Loading a state_dict replaces whole groups: options that it lacks stay what they are.
        current = self.__dict__.get("param_groups", ())
        for group, now in zip(state["param_groups"], current, strict=False):
            for option, value in now.items():
                group.setdefault(option, value)
        printed.warn_of_loaded(current, state["param_groups"])
        for group in current:
            for p in group["params"]:
                if of_p := state["state"].get(p):
                    step_checks.state_of(self, of_p)
        self._start()
        super().__setstate__(state)
        self._rows_of_plan.recognize(self.param_groups)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, as in `torch.optim`; where GC stands is an option of a group, and loaded too."""
        try:
            super().load_state_dict(state_dict)
        except ValueError as error:
            saved = [len(group["params"]) for group in state_dict["param_groups"]]
            here = [group["params"] for group in self.param_groups]
            if saved != list(map(len, here)) and saved == [sum(p.requires_grad for p in params) for params in here]:
                error.add_note(
                    "It has as many as train here: it was made of these alone. So must be the optimizer: "
                    f"gc_torch.{type(self).__name__}([p for p in model.parameters() if p.requires_grad], …)"
                )
            raise

    def __repr__(self) -> str:
        return printed.optimizer(self, super().__repr__())

    # -- a step ----------------------------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...
    @compat.use_grad_for_differentiable
    def step(self, closure: Any = None) -> Any:
        """Take one step.

        Args:
            closure: reevaluates the model and returns the loss; called once.

        Raises:
            TypeError, ValueError: an option, a gradient or a state is wrong; then nothing has changed.
        """
        if self.kind == "adam":
            compat.graph_capture_health_check(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_compiling():
            if any(group["fused"] for group in self.param_groups):
                # A compiler sees into no kernel, and would compile the host's work around it.
                _without_compiler(self._step)
            else:
                self._step()
        elif torch.is_inference_mode_enabled() and not self._is_of_inference():
            # States made in it could not be written to by a later step outside.
            with torch.inference_mode(False), torch.set_grad_enabled(self.defaults["differentiable"]):
                self._step()
        else:
            self._step()
        return loss

    def _is_of_inference(self) -> bool:
        return any(p.is_inference() for group in self.param_groups for p in group["params"])

    def _step(self) -> None:
        groups = self.param_groups
        options = [self._options(i, group) for i, group in enumerate(groups)]
        rows = [self._rows(i) for i in range(len(groups))]
        self._step_parts([Part(i, None, group, self.state) for i, group in enumerate(groups)], options, rows)

    def _step_parts(self, parts: list[Part], options: list[Any], every: list[tuple[Row, ...]]) -> None:
        grads = [[p.grad for p in part.group["params"]] for part in parts]
        kept = [self._kept.find(part, options[i], every[i], grads[i]) for i, part in enumerate(parts)]
        if None in kept:
            for i, part in enumerate(parts):
                if kept[i] is None:
                    step_checks.group(self, part.group, every[i])
        if None in kept and not torch.compiler.is_compiling():
            # What was kept is of the same shapes; anything else may have data of another shape by now.
            every = [part.of(self._rows(part.index, shapes=kept[i] is None)) for i, part in enumerate(parts)]
        batches: list[Batch] = []
        for i, found in enumerate(kept):
            batches += (
                self._kept.prepare(self, parts[i], options[i], every[i], self._scratch) if found is None else found
            )

        # A GradScaler leaves these to optimizers that were asked for the fused step.
        grad_scale, found_inf = self.__dict__.get("grad_scale"), self.__dict__.get("found_inf")
        if found_inf is not None and not all(batch.heeds_found_inf for batch in batches):
            if found_inf.item():
                return
            found_inf = None
        for batch in batches:
            scale = grad_scale
            if scale is not None and not batch.heeds_grad_scale:
                prepare.unscale(batch.columns[1], scale, found_inf)
                scale = None
            self._take(batch, scale, found_inf)
            memory.say_written(prepare.written(batch))

    def _take(self, batch: Batch, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        group, columns = batch.group, batch.columns
        if batch.path == path.KERNEL:
            if batch.fresh:  # zeros, for a step that finds an infinity leaves them
                columns = [*columns[:2], [torch.zeros_like(p) for p in columns[0]], *columns[3:]]
            batch.steps.step(
                self.kind, group, columns, batch.geometries, batch.fresh, found_inf, grad_scale, batch.streams
            )
        elif batch.by_our_rules:
            batch.steps.step(self.torch_step, batch, columns, found_inf)
        else:
            self.torch_step(group, batch.path, columns, grad_scale, found_inf)
        if not batch.kept and not batch.may_be_kept:  # elsewhere the states are what they were
            self.remember(batch.params, columns)

    # -- checks ----------------------------------------------------------------------------------------------------

    def _options(self, index: int, group: dict[str, Any]) -> tuple[Any, ...]:
        """What the options of a group decide, once they have been checked."""
        self.complete(group)
        if torch.compiler.is_compiling():
            self.check(group, in_step=True)
            return deciding(group)
        values = [value for name, value in group.items() if name != "params"]
        known = self._checked.get(index)
        # By identity: a number that is equal may be of another type, and a tensor may hold another number.
        if known is not None and len(known[0]) == len(values) and all(map(operator.is_, known[0], values)):
            return known[1]
        self._checked.pop(index, None)
        self.check(group, in_step=True)
        decided = deciding(group)
        numbers = [x for value in values for x in (value if type(value) is tuple else (value,))]
        if all(type(x) in (float, int, bool, str, type(None)) for x in numbers):
            self._checked[index] = values, decided
        return decided

    def complete(self, group: dict[str, Any]) -> None:
        """Give a group that was put among the others by hand the options that are ours."""
        if "gc_on" not in group or "low_precision" not in group:
            for option in ("gc_on", *low_precision.OPTIONS):
                group.setdefault(option, self.defaults[option])


@torch.compiler.disable
def _without_compiler(step: Callable[[], None]) -> None:
    step()
