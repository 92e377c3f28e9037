"""Commands on finished studies: open, compare, verify, export, label."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from study.cli.options import StudyFile, config_option, named_files, output_option
from trainables.records.types import SplitId

if TYPE_CHECKING:
    from study.model.classifier import Classifier


class _SplitType(click.ParamType):  # type: ignore[type-arg]
    """A split's seed, or a seed and the number of an inner split."""

    name = "SEED[/INNER]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> SplitId:
        try:
            return SplitId.parse(value)
        except ValueError:
            self.fail(f"must be a split as in 3, or an inner split as in 3/0, got {value!r}.", param, ctx)


@click.command("open")
@click.argument("study", required=False, type=click.Path(path_type=Path))
@config_option
@click.option("--print", "prints", is_flag=True, help="Print the page's path only.")
def open_command(study: Path | None, config: StudyFile, prints: bool) -> None:
    """Open the page of the report in a browser.

    STUDY is a study file, in place of -c. Where there is no browser, the page's path is printed.
    """
    config = StudyFile(study, config.assignments) if study else config
    spec = config.load(encodes=False)
    if not spec.report_page.exists():
        there = any(spec.records.glob("*.parquet"))
        makes = "report" if there else "run"
        raise click.ClickException(f"there is no report at {spec.report_page}; make it: {config.command(makes)}")
    if prints:
        click.echo(spec.report_page)
        return
    click.echo(f"Report: {spec.report_page}")
    if not webbrowser.open(spec.report_page.as_uri()):
        click.echo("No browser was found here; open this file in one.", err=True)


@click.command("compare")
@click.argument("studies", nargs=-1, required=True, metavar="STUDY STUDY...")
@output_option
def compare_command(studies: tuple[str, ...], output: Path | None) -> None:
    """Compare studies with the first one.

    A STUDY is a directory, or URI#NAME for a study on an MLflow server.
    """
    from analysis.report.comparison_page import comparison_table, write_comparison
    from analysis.statistics.across_studies import compare
    from study.cli.console import show_table

    comparison = compare(studies)
    folder = output or Path("comparison")
    instead = ", in place of an earlier one" if (folder / "compare.html").exists() else ""
    written = write_comparison(comparison, folder)
    for study, text in comparison.convergence:
        click.echo(f"{study}: {text}")
    show_table(comparison_table(comparison))
    for side in comparison.sides:
        for sentence in side.results.excluded:
            click.echo(f"{side.name}: {sentence}")
    click.echo(f"Comparison{instead}: {written.html}")


@click.command("verify")
@click.argument("cell")
@config_option
@click.option("--split", type=_SplitType(), help="A split, or an inner split (3/0).  [default: the first recorded one]")
@click.option("--tolerance", default=0.001, show_default=True, help="Largest difference that agrees on other hardware.")
def verify_command(cell: str, config: StudyFile, split: SplitId | None, tolerance: float) -> None:
    """Retrain a CELL of the table; exit code 1 if the results differ.

    On the kind of CPU that made the record, they must be equal to the bit; elsewhere, within the tolerance. A CELL is a
    method, or a candidate such as 'e_mixup(alpha=0.3)'.
    """
    from study.cli.console import show_table
    from study.model.verify import verification_table, verify_cell

    spec = config.load()
    found = verify_cell(spec.root, cell, split, tolerance, spec.resources)
    word = "agrees" if found.agrees else "does not agree"
    how = "to the bit" if found.equal or found.must_be_equal else f"within {tolerance:g}"
    click.echo(
        f"{found.trial} {word}, {how}: {found.n_changed} of {found.n_items} items are judged differently, "
        f"logits differ by at most {found.logit_difference:.1g}."
    )
    if found.recorded_on != found.retrained_on:
        click.echo(f"Recorded on other hardware: {found.recorded_on}; now {found.retrained_on}.")
    if found.other_versions:
        changes = (f"{name} {before}, now {now}" for name, (before, now) in found.other_versions.items())
        click.echo(f"Recorded with other versions: {'; '.join(changes)}.")
    show_table(verification_table(found), n_left=1)
    sys.exit(0 if found.agrees else 1)


@click.command("export")
@click.argument("cell", required=False)
@config_option
@click.option("--split", type=int, help="Train a split's test trial again instead, on its training items.")
@click.option("--error-rate", type=float, help="Also predict sets of labels, calibrated on a fifth of the items.")
@click.option("--track", is_flag=True, help="Also attach the model to the study's MLflow run.")
@output_option
def export_command(
    cell: str | None, config: StudyFile, split: int | None, error_rate: float | None, track: bool, output: Path | None
) -> None:
    """Write the best method, or a CELL, trained on all items, for MLflow.

    Inner splits of all items choose the candidate, its threshold and its temperature, if the study's selection is
    nested. The model is safetensors weights and JSON, without pickle. A CELL is a method, or a candidate such as
    'e_mixup(alpha=0.3)'.
    """
    if split is not None and error_rate is not None:
        raise click.UsageError("--error-rate calibrates on a part of all items: give it without --split.")
    if error_rate is not None and not 0 < error_rate < 1:
        raise click.UsageError(f"--error-rate must be above 0 and below 1, got {error_rate:g}.")
    from study.model.export import MODEL, train_best, write_model

    spec = config.load()
    trained = train_best(spec.root, cell, split, spec.resources, error_rate=error_rate, say=_say)
    _warn(trained.classifier)
    folder = output or spec.root / MODEL
    instead = ", in place of an earlier model" if (folder / "MLmodel").exists() else ""
    written = write_model(trained, folder)
    click.echo(f"{trained.summary}: {written}{instead}")
    click.echo("How good it may be expected to be, the report says of its method.")
    place = str(written)
    if track:
        from study.tracking.sync import attach

        place = f"runs:/{attach(spec, {'model': written})}/model"
        click.echo(f"mlflow.set_tracking_uri({spec.tracking_uri!r})")
    sets = f', params={{"error_rate": {error_rate:g}}}' if error_rate is not None else ""
    gives = 'class or "none", and confidence' + (", set and p_known" if error_rate is not None else "")
    click.echo(f"mlflow.pyfunc.load_model({place!r}).predict(embeddings{sets}) gives {gives}.")
    files = "".join(f" --vectors {one.name}=FILE" for one in spec.data.vector_columns if one.file is not None)
    click.echo(f"For a table of items without labels: study label TABLE --model {written}{files}")


@click.command("label")
@click.argument("table", type=click.Path(path_type=Path))
@config_option
@click.option(
    "-m", "--model", type=click.Path(path_type=Path), help="An exported model.  [default: train the best method]"
)
@click.option(
    "--vectors",
    multiple=True,
    metavar="NAME=FILE",
    help="The file of the table's vectors, for a NAME that the study reads from a file.",
)
@click.option("-n", "--top", default=100, show_default=True, type=click.IntRange(1), help="Items on the page.")
@output_option
def label_command(
    table: Path, config: StudyFile, model: Path | None, vectors: tuple[str, ...], top: int, output: Path | None
) -> None:
    """Rank the unlabelled items of a TABLE by what to label next."""
    from embedding_jobs.files import write_whole
    from study.config.paths import resolved
    from study.execution.progress import Progress, chatter_to
    from study.labelling.items import embed_table, label_csv, rank_items, unlabelled_source
    from study.labelling.page import label_page
    from study.model.classifier import load_classifier
    from study.model.export import MODEL, train_best

    spec = config.load()
    files = {name: resolved(file, Path()) for name, file in named_files(vectors).items()}
    folder = output or spec.root / "label" / table.stem
    source = unlabelled_source(spec, table, files)
    if model is None:  # the model comes first: without one, nothing is embedded
        if (exported := spec.root / MODEL).exists():
            _say(f"Without --model, the best method is trained, and the model in {exported} is not used.")
        trained = train_best(spec.root, resources=spec.resources, say=_say)
        classifier, says = trained.classifier, trained.summary
    else:
        classifier, says = load_classifier(model), f"{model}"
    _warn(classifier)
    with chatter_to(spec.log) as console, Progress(console) as progress:
        embeddings_of_table = embed_table(spec, source, folder / "embeddings", classifier, progress)
    items = rank_items(classifier, embeddings_of_table, source, top)
    listed = write_whole(folder / "label.csv", label_csv(items).encode())
    page = label_page(items[:top], len(items), source, spec.name, says, classifier.trained.get("convergence"))
    n_none = sum(item.predicted == "none" for item in items)
    click.echo(f'{len(items)} items ranked by {says}; {n_none} predicted "none".')
    click.echo(f"List: {listed}\nPage: {write_whole(folder / 'label.html', page.encode())}")


def _say(text: str) -> None:
    """Say on standard error what is trained."""
    click.echo(text, err=True)


def _warn(classifier: Classifier) -> None:
    """Say on standard error that the training of a classifier has not converged, or could not be judged, if so."""
    if text := classifier.trained.get("convergence"):
        click.echo(text, err=True)
