"""Directives that write pages from the package, so that they cannot say what is no longer so."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType

import click
from docutils import nodes
from reattend.cli.group import commands
from reattend.method import registered
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_FIELD = re.compile(r"^    (\w+): .+? = .+?  # (.+)$", re.MULTILINE)

_PAGES = {
    **{f"results/{name}.md": f"results/{name}" for name in (
        "hallucination", "hallucination_variants", "hallucination_without_registers", "easy_vqa"
    )},
    "python/training/README": "training",
    "benchmarks/README.md": "benchmarks",
    "README": "vision_models",
}  # fmt: skip


def _names(module: ModuleType) -> list[str]:
    """Give a room's public names; a single file has those that are defined in it."""
    own = [name for name, item in vars(module).items() if not name.startswith("_")
           and getattr(item, "__module__", None) == module.__name__]  # fmt: skip
    return list(getattr(module, "__all__", own))


class MethodFacts(SphinxDirective):
    """What the registry knows of a method: formula, parameters, defaults, needs."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Give the nodes."""
        name = self.arguments[0]
        method = registered()[name]
        meanings = dict(_FIELD.findall(inspect.getsource(method)))
        lines = [f".. autoclass:: reattend.{name}", ""]
        lines += [".. list-table::", "   :header-rows: 1", "   :widths: 20 20 60", ""]
        lines += ["   * - parameter", "     - default", "     - meaning"]
        for field in dataclasses.fields(method):
            lines += [f"   * - ``{field.name}``", f"     - ``{field.default!r}``"]
            lines += [f"     - {meanings[field.name]}"]
        needs = []
        if method.needs_image:
            needs.append("an image among the prompt's tokens")
        if method.needs_text_only:
            needs.append("the same prompt without its image, once for each prompt")
        lines += ["", f"Edits: {method.edits}. What decides in a call: {method.statistic}."]
        lines += ["", f"Needs: {' and '.join(needs) or 'nothing but attention itself'}.", ""]
        return self.parse_text_to_nodes("\n".join(lines))


class MethodList(SphinxDirective):
    """The registry as a table, each name a link to its page."""

    def run(self) -> list[nodes.Node]:
        """Give the nodes."""
        lines = [".. list-table::", "   :widths: 18 46 12 24", "   :header-rows: 1", ""]
        lines += ["   * - method", "     - what it does", "     - edits", "     - what decides"]
        for name, method in registered().items():
            sentence = inspect.cleandoc(method.__doc__ or "").splitlines()[0]
            lines += [f"   * - :doc:`{name} </methods/{name.lower()}>`", f"     - {sentence}"]
            lines += [f"     - {method.edits}", f"     - {method.statistic}"]
        return self.parse_text_to_nodes("\n".join([*lines, ""]))


class MethodCost(SphinxDirective):
    """What a method takes beside plain attention, as benchmarks/method_costs.py measured it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Give the nodes."""
        file = Path(self.env.srcdir).parent / "benchmarks" / "results" / "method_costs.json"
        self.env.note_dependency(str(file))
        run = json.loads(file.read_text())
        if self.arguments[0] not in run["table"]:
            return self.parse_text_to_nodes("Not measured: ``python benchmarks/method_costs.py``.")
        prompt, step = run["table"][self.arguments[0]]
        text = (
            f"Times plain attention: **{prompt}** of a prompt of 640 tokens, **{step}** of a step "
            "with 1,024 keys (a dash: nothing is changed there). One layer of LLaVA-1.5-7B's "
            f"attention in float32, one thread of {run['cpu']}, {run['instruction set']}; "
            f"median of {run['rounds']} rounds of one ``python benchmarks/method_costs.py``, "
            "with settings that make the method act, while other processes had "
            f"{run['others']:.0%} of the CPUs."
        )
        return self.parse_text_to_nodes(text)


class CommandHelp(SphinxDirective):
    """Every command with what its help says."""

    def run(self) -> list[nodes.Node]:
        """Give the nodes."""
        found: list[nodes.Node] = []
        with commands.make_context("reattend", [], resilient_parsing=True) as outer:
            for name in commands.list_commands(outer):
                command = commands.get_command(outer, name)
                inner = click.Context(
                    command, info_name=name, parent=outer, terminal_width=96, max_content_width=96
                )
                section = nodes.section(ids=[f"reattend-{name}"])
                section += nodes.title(text=f"reattend {name}")
                section += nodes.literal_block(text=command.get_help(inner), language="text")
                found.append(section)
        return found


class PublicNames(SphinxDirective):
    """The functions and classes that a module names in its `__all__`, but for methods."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Give the nodes."""
        module = importlib.import_module(self.arguments[0])
        lines = []
        for name in _names(module):
            item = getattr(module, name)
            if name in registered() or inspect.ismodule(item) or name.startswith("_"):
                continue
            kind = "class" if inspect.isclass(item) else "function"
            if not (inspect.isclass(item) or inspect.isfunction(item)):
                continue
            lines += [f".. auto{kind}:: {module.__name__}.{name}"]
            lines += ["   :members:", ""] if kind == "class" else [""]
        return self.parse_text_to_nodes("\n".join(lines))


def _point_at_pages(app: Sphinx, doctree: nodes.document) -> None:
    """Let links to files of the repository lead to the pages that show these."""
    for link in doctree.findall(addnodes.pending_xref):
        for file, page in _PAGES.items():
            if str(link.get("reftarget", "")).endswith(file):
                link["refdomain"], link["reftarget"], link["reftargetid"] = "doc", page, None


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.connect("doctree-read", _point_at_pages)
    app.add_directive("method-facts", MethodFacts)
    app.add_directive("method-list", MethodList)
    app.add_directive("method-cost", MethodCost)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
