"""What a verdict must say beside its headline: what filters change, and which cells are in no number."""

from al_ray.report.content import ReportContent, Setting
from al_ray.report.wording import count, joined, plural, some

_MOST_NOTICES = 3


def what_clipping_does(content: ReportContent) -> list[str]:
    """Return one sentence for every filter of the study, over all settings."""
    effects = [effect for effect in content.clipping if effect.setting is None]
    return [_clipping_of(filters, content) for filters in dict.fromkeys(effect.filters for effect in effects)]


def _clipping_of(filters: str, content: ReportContent) -> str:
    effects = [effect for effect in content.clipping if effect.setting is None and effect.filters == filters]
    tested = [effect for effect in effects if effect.comparison.p_holm is not None]
    of = plural(len(effects), "method")
    if not tested:
        return f"{filters}: too little data to say what it changes for {of}. {effects[0].comparison.refusal}"
    real = [effect for effect in tested if effect.comparison.is_significant(content.alpha)]
    helped = [effect.method for effect in real if effect.comparison.difference > 0]
    hurt = [effect.method for effect in real if effect.comparison.difference < 0]
    if not real:
        return f"{filters}: no difference is shown for {of if len(effects) == 1 else f'any of {of}'}."
    parts = [f"helps {some(helped, 'method')}"] if helped else []
    parts += [f"hurts {some(hurt, 'method')}"] if hurt else []
    rest = len(effects) - len(real)
    left = f"; for {plural(rest, 'other')} no difference is shown" if rest else ""
    return f"{filters}: {joined(parts)} by more than chance{left}."


def what_is_missing(content: ReportContent) -> list[str]:
    """Return one sentence for everything that no number holds."""
    said = [text for text in (_unfinished(content), _failed(content)) if text]
    if not content.plan_known:
        said.append(
            "The records do not say how many cells the study plans, so cells that were never begun are not counted."
        )
    said += [f"{_unmeasured(content)}"] if _unmeasured(content) else []
    if content.rankings and content.rankings[0].note:
        said.append(content.rankings[0].note)
    without = [setting.name for setting in content.settings if _lacks_passive(setting, content)]
    if without and content.n("done"):
        said.append(f"No passive model is finished on {some(without, 'setting')}, so shares of it are not known there.")
    return [*said, *_notices(content)]


def _notices(content: ReportContent) -> list[str]:
    if len(content.notices) <= _MOST_NOTICES:
        return list(content.notices)
    return [f"{plural(len(content.notices), 'notice')} on damaged or odd records: see the state of the study."]


def _lacks_passive(setting: Setting, content: ReportContent) -> bool:
    return setting.passive is None and any(cell.setting == setting.name for cell in content.cells)


def _unfinished(content: ReportContent) -> str:
    running, waiting = content.n("running"), content.n("waiting")
    if not running + waiting or not content.n("done"):
        return ""
    parts = [f"{count(n)} {word}" for n, word in ((running, "running"), (waiting, "waiting")) if n]
    return (
        f"The study is not finished: {count(content.n('done'))} of {plural(len(content.cells), 'cell')} are done, "
        f"{joined(parts)}. The verdict may change."
    )


def _failed(content: ReportContent) -> str:
    failed = [cell for cell in content.cells if cell.status == "failed"]
    if not failed or len(failed) == len(content.cells):
        return ""
    methods = sorted({cell.method for cell in failed})
    verb = "is" if len(failed) == 1 else "are"
    return f"{plural(len(failed), 'cell')} failed and {verb} in no number: {some(methods, 'method')}."


def _unmeasured(content: ReportContent) -> str:
    done = {cell.method for cell in content.cells if cell.status == "done"}
    never = [method.name for method in content.methods if method.name not in done]
    if not never or not done:
        return ""
    return f"Without a finished cell, so in no ranking: {some(never, 'method')}."
