"""Commands on finished studies: what they say beside each other, and what is done with them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from study.cli.embeddings import embeddings

_config = click.option(
    "-c", "--config", default="study.yaml", show_default=True, type=click.Path(path_type=Path), help="The study file."
)

_split = click.option("--split", type=int, help="Split seed; the first recorded one if not given.")

_output = click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write into.")


@click.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY STUDY...")
@_output
def compare(studies: tuple[str, ...], output: Path | None) -> None:
    """Compare studies with the first one: directories, or `URI#NAME` for one on an MLflow server."""
    from analysis.report.comparison_page import comparison_table, write_comparison
    from analysis.statistics.across_studies import compare as compare_studies
    from study.cli.console import show

    comparison = compare_studies(studies)
    written = write_comparison(comparison, output or Path("comparison"))
    show(comparison_table(comparison))
    click.echo(f"Comparison: {written.html}")


@click.command()
@click.argument("cell")
@_config
@_split
@click.option("--tolerance", type=float, default=0.001, show_default=True, help="Largest difference that agrees.")
def verify(cell: str, config: Path, split: int | None, tolerance: float) -> None:
    """Retrain a CELL of the table (a method, or `e_mixup(alpha=0.3)`) and say whether it agrees; exit code 1 if not."""
    from study.cli.console import show
    from study.config.load import load_spec
    from study.model.verify import verification_table, verify_cell

    found = verify_cell(load_spec(config).root, cell, split, tolerance)
    show(verification_table(found), n_left=1)
    if found.recorded_on != found.retrained_on:
        click.echo(f"Recorded on other hardware: {found.recorded_on}; now {found.retrained_on}.")
    word = "agrees" if found.agrees else "does not agree"
    items = f"{found.n_changed} of {found.n_items} items are judged otherwise"
    click.echo(
        f"{found.trial} {word}, within {tolerance:g}: {items}, confidences differ by {found.confidence_difference:.1g} "
        "at most."
    )
    sys.exit(0 if found.agrees else 1)


@click.command()
@click.argument("cell", required=False)
@_config
@_split
@click.option("--all-items", is_flag=True, help="Train on every labelled item, not on the split's training items.")
@click.option("--track", is_flag=True, help="Attach the model to the study's MLflow run too.")
@_output
def export(
    cell: str | None, config: Path, split: int | None, all_items: bool, track: bool, output: Path | None
) -> None:
    """Write the best candidate, or that of a CELL, as an MLflow model: safetensors weights and JSON, no pickle."""
    from study.config.load import load_spec
    from study.model.export import train_best, write_model

    spec = load_spec(config)
    root = spec.root
    trained = train_best(root, cell, split, all_items=all_items)
    written = write_model(trained, output or root / "model")
    click.echo(f"{trained.summary}: {written}")
    place = str(written)
    if track:
        from study.tracking.sync import attach

        place = f"runs:/{attach(spec, {'model': written})}/model"
    click.echo(f'mlflow.pyfunc.load_model({place!r}).predict(embeddings) gives class or "none", and confidence.')


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@_config
@click.option("-m", "--model", type=click.Path(path_type=Path), help="An exported model; else the best is trained.")
@click.option("-n", "--top", default=100, show_default=True, type=click.IntRange(1), help="Items on the page.")
@_output
def label(table: Path, config: Path, model: Path | None, top: int, output: Path | None) -> None:
    """Rank the items of an unlabelled TABLE: what to label next, as CSV and as a page."""
    from embedding_jobs.files import write_whole
    from study.config.load import load_spec
    from study.execution.progress import Progress, chatter_to
    from study.labelling.items import embed_table, label_csv, rank_items, unlabelled_source
    from study.labelling.page import label_page
    from study.model.classifier import load_classifier
    from study.model.export import train_best

    spec = load_spec(config)
    folder = output or spec.root / "label" / table.stem
    source = unlabelled_source(spec, table)
    with chatter_to(spec.log) as console, Progress(console) as progress:
        embeddings_of_table = embed_table(spec, source, folder / "embeddings", progress)
    if model is None:
        trained = train_best(spec.root)
        classifier, says = trained.classifier, trained.summary
    else:
        classifier, says = load_classifier(model), f"{model}"
    items = rank_items(classifier, embeddings_of_table, source, top)
    listed = write_whole(folder / "label.csv", label_csv(items).encode())
    page = label_page(items[:top], len(items), source, spec.name, says)
    n_none = sum(item.predicted == "none" for item in items)
    click.echo(f'{len(items)} items ranked by {says}; {n_none} predicted "none".')
    click.echo(f"List: {listed}\nPage: {write_whole(folder / 'label.html', page.encode())}")


def report_from_server(uri: str, name: str, output: Path) -> None:
    """Writes and prints the report of a study from an MLflow server alone."""
    from analysis.report.tables import terminal_table
    from analysis.report.write import write_server_report
    from analysis.results.mlflow import load_runs
    from study.cli.console import show

    study = load_runs(uri, name)
    written = write_server_report(study, output)
    show(terminal_table(study.results))
    for sentence in study.results.missing:
        click.echo(f"Missing: {sentence}")
    click.echo(f"Report, without what rests on single items: {written.html}")


COMMANDS = (
    compare,
    embeddings,
    export,
    label,
    verify,
)
