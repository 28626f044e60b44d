"""`stockhold migrate`: the tables of Stockhold in databases that somebody else runs."""

from infra.cli.shared import JsonOption, Refusal, answer, load_settings


def migrate(json: JsonOption = False) -> None:
    """Bring the databases in STOCKHOLD_EVENT_STORE_URL and STOCKHOLD_READ_MODEL_URL up to date.

    `stockhold up` does so by itself; this is for processes that are started one by one. Harmless if repeated, and if
    several do it at once.
    """
    from infra.embedded.stack import bring_up_to_date

    settings = load_settings()
    if not settings.event_store_url:
        raise Refusal("set STOCKHOLD_EVENT_STORE_URL: a stack in a folder is brought up to date when it starts")
    applied = bring_up_to_date(settings.event_store_url, settings.read_model_url)
    answer({"applied": applied}, "\n".join(applied) or "up to date already", as_json=json)
