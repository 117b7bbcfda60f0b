"""Every sentence of stage=explore in two languages, and the language of a report."""

from __future__ import annotations

import json
import re
from string import Formatter

import pytest

from llmstage.cli.command import main
from llmstage.explore import wording
from llmstage.explore.wording import SENTENCES, add_sentences, headings, sentence, speaking
from llmstage.research import wording as research_wording
from llmstage.research.wording import curves
from llmstage.stages.explore import classes_of

PARTS = (
    wording.COMMON,
    *(getattr(wording, name).SENTENCES for name in ("novelty", "improve", "probes", "weak")),
    *(getattr(research_wording, name).SENTENCES for name in ("curves", "toy_worlds", "ladder", "reduction")),
)
CJK = re.compile("[\u3400-\u9fff，。；：（）“”、]")


def fields(text: str) -> set[tuple[str, str, str]]:
    """The fields of a sentence, with their format."""
    return {(name, form or "", how or "") for _, name, form, how in Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("key", sorted(SENTENCES))
def test_both_languages_have_the_same_numbers(key: str) -> None:
    english, chinese = SENTENCES[key]
    assert fields(english) == fields(chinese)
    assert english.count("|") == chinese.count("|")
    assert not CJK.search(english)
    assert not re.search(r"[\u3400-\u9fff] ?[,;:?!](?![\d\w])|[\u3400-\u9fff]\.$", chinese), (
        "Chinese has its own punctuation"
    )


def test_no_two_parts_use_one_key_and_all_verdicts_have_names() -> None:
    assert sum(map(len, PARTS)) == len(SENTENCES)
    with pytest.raises(ValueError, match="no_ladder"):
        add_sentences({"no_ladder": ("again", "再次")})
    assert set(curves.NAMES) == set(curves.MEANINGS)
    for pairs in (curves.NAMES, curves.MEANINGS, curves.SHAPES):
        assert all(CJK.search(chinese) and not CJK.search(english) for english, chinese in pairs.values())


def test_a_block_has_its_language_and_the_default_is_english() -> None:
    with speaking("zh"):
        assert sentence("no_ladder") == "没有阶梯：无法就涌现下结论" and headings("groups_columns")[0] == "组"
        with speaking("en"):
            assert sentence("no_ladder").startswith("no ladder")
        assert sentence("yes") == "是"
    assert sentence("yes") == "yes"


def test_classes_with_chinese_names_make_the_page_chinese(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"id2label": {"0": "退款", "1": "other"}}', encoding="utf-8")
    assert classes_of(tmp_path) == ["退款", "other"] and wording.report_language("auto", classes_of(tmp_path)) == "zh"
    (tmp_path / "config.json").write_text("{", encoding="utf-8")  # reported where the model is loaded
    assert classes_of(tmp_path) == [] == classes_of(None)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_slices_logs_and_improvement_have_one_language(planted, speaks, language: str) -> None:
    """The three in one command. The plan has few steps, and the guard refuses: a refusal has more sentences."""
    out = planted.folder / f"spoken_{language}"
    status = main([
        "stage=explore", f"model.path={planted.run}", f"data.test={planted.folder / 'test.jsonl'}", "trainer.threads=1",
        f"stage.report.language={language}", "stage.diagnosis.elicit=[16]", "stage.diagnosis.elicit_steps=2",
        f"stage.novelty.logs={planted.rows('logs.jsonl', 5, 60, 0.5)}", "stage.improve.enabled=true", "stage.improve.steps=3",
        f"stage.improve.data={planted.folder / 'new.jsonl'}", "stage.improve.target_share=[0.5,1.0]",
        "stage.improve.guard.delta=0.0001", "stage.improve.guard.fallback=[wise_ft]", f"hydra.run.dir={out}",
    ])  # fmt: skip
    assert status == 9
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    speaks(report, language)
    assert set(report["explore"]) == {"slices", "collect", "improvement"}
    page = (out / "report.html").read_text(encoding="utf-8")
    plan, card = (
        (out / "plan.yaml").read_text(encoding="utf-8"),
        next((out / "cards").glob("*.md")).read_text(encoding="utf-8"),
    )
    if language == "zh":
        assert '<html lang="zh">' in page and "已完成" in page and "种子 0" in page and "无法下结论之处" in page
        assert "由 stage=explore 写成" in plan and "## 原因" in card and "措施：" in card
        assert "未改进：守卫拒绝" in report["sentences"][-1] or any(
            "未改进：守卫拒绝" in line for line in report["sentences"]
        )
    else:
        assert (
            '<html lang="en">' in page and "seed 0" in page and "Written by stage=explore" in plan and "## Why" in card
        )
