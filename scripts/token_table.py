"""Count the tokens of a text, for the policy ``pcsampler``.

    python -m scripts.token_table corpus.txt more.txt --model ./LLaDA-8B-Instruct --out llada.json
    python -m scripts.token_table --tasks all --samples 500 --out samplers/tables/tiny.json    # the one that ships

With ``--tasks`` the text is the answers to training problems of the bundled tasks.  Use the table with
``--policy pcsampler:table=llada.json``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from dllm_decode.errors import DllmError
from dllm_decode.models.loading import inspect_model
from dllm_decode.tasks import TASKS, get_task, samples


def answers(tasks: str, count: int, seed: int = 0) -> Iterator[str]:
    """Right answers to ``count`` training problems of each of the tasks (names joined by commas, or ``all``)."""
    names = list(TASKS) if tasks == "all" else [get_task(name).name for name in tasks.split(",")]
    for name in names:
        for sample in samples(name, "train", count, seed):
            yield sample.answer + "\n"


def lines(files: Iterable[Path]) -> Iterator[str]:
    """The lines of some files, one after the other."""
    for path in files:
        with path.open(encoding="utf-8") as file:
            yield from file


def main(
    texts: Annotated[list[Path] | None, typer.Argument(help="Text files.", exists=True, dir_okay=False)] = None,
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("tokens.json"),
    model: Annotated[str, typer.Option(help="Whose tokenizer: tiny, a checkpoint folder, or a hub id.")] = "tiny",
    tasks: Annotated[str | None, typer.Option(help="Bundled tasks, or all, instead of files.")] = None,
    count: Annotated[int, typer.Option("--samples", min=1, help="Problems per task.")] = 500,
) -> None:
    """Write a table of token counts; see the module's own text."""
    if bool(texts) == bool(tasks):
        raise typer.BadParameter("give text files, or --tasks, and not both.")
    try:
        *_, codec = inspect_model(model)
        if codec is None:
            raise typer.BadParameter(f"{model} has no tokenizer; give a checkpoint folder that holds one.")
        counts: Counter[int] = Counter()
        for text in answers(tasks, count) if tasks else lines(texts or ()):
            counts.update(codec.encode(text))
    except (DllmError, UnicodeDecodeError) as error:
        raise typer.BadParameter(str(error)) from error
    total = counts.total()
    if not total:
        raise typer.BadParameter("the text is empty; give one with tokens in it.")
    table = {"num_token": total, "p_baseline_dict": {str(token): n for token, n in sorted(counts.items())}}
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(out.name + ".part")
    fresh.write_text(json.dumps(table) + "\n", encoding="utf-8")
    fresh.replace(out)
    print(f"{out}: {len(counts)} different tokens of {total}; the most frequent:")
    for token, n in counts.most_common(5):
        print(f"  {token:>6} {codec.decode([token], False)!r:12} {100 * n / total:.1f} %")


if __name__ == "__main__":
    typer.run(main)
