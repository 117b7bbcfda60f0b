"""Sentences on probes of one checkpoint, and on items that could not be scored."""

from __future__ import annotations

SENTENCES = {
    "above_chance_in": (
        "Above chance in {above} of {num} cells of {families} families.",
        "{families} 个题族共 {num} 个单元，其中 {above} 个高于随机水平。",
    ),
    "best_cells": ("Best: {cells}.", "最好：{cells}。"),
    "best_cell": ("{cell} {share} (chance {chance:.0%})", "{cell} {share}（随机水平 {chance:.0%}）"),
    "up_to": (
        "{family}: above chance up to {last}, not at {next}.",
        "{family}：到 {last} 为止高于随机水平，到 {next} 则否。",
    ),
    "no_ladder": ("no ladder: no statement about emergence", "没有阶梯：无法就涌现下结论"),
    "cell_below": ("{cell}: below resolution ({seen}){more}", "{cell}：低于分辨率（{seen}）{more}"),
    "but_informed": (
        "; its answers are likelier than their token frequencies predict",
        "；但正确答案的概率高于词元频率所能解释的",
    ),
    "too_few_items": (
        "{num} items are too few for a claim: fewer than {least}. A drop from 0.9 to 0.8 needs {drop}.",
        "{num} 个题目不足以下结论：少于 {least} 个。要看出从 0.9 到 0.8 的下降，需要 {drop} 个。",
    ),
    "not_scored": ("{count} items were not scored: {reason}", "{count} 个题目没有评分：{reason}"),
    "not_scored_many": (
        "{num} of {items} items were not scored, for {reasons} reasons",
        "{items} 个题目中有 {num} 个没有评分，原因共 {reasons} 种",
    ),
    "right_but_end": (
        "{num} answers are right except for the end after them: if the model did not learn to stop there, set stage.scoring.end=newline or none",
        "{num} 个答案除结尾外都正确：若没有教过模型在此停下，请设 stage.scoring.end=newline 或 none",
    ),
    "masked_scores": (
        "a masked language model does not write from left to right: log-probabilities are pseudo-log-likelihoods (each token masked in turn), and exact match, pass and p_vocab are not defined",
        "掩码语言模型没有书写次序：对数概率是伪对数概率（逐个遮住词元求得），精确匹配、pass 与 p_vocab 没有定义",
    ),
    "tower_scores": (
        "a model of two towers gives no probability to a text: probabilities are those among the choices (softmax of scaled cosines), the log-probability is that of the right choice, and exact match, pass and p_vocab are not defined",
        "双塔模型不给文本以概率：概率是在选项之间的概率（缩放余弦的 softmax），对数概率是正确选项的对数概率，精确匹配、pass 与 p_vocab 没有定义",
    ),
    "towers_no_picture": (
        "it has no picture, and this model compares pictures with texts",
        "题目没有图片，而该模型只比较图片与文本",
    ),
    "towers_no_choices": (
        "it has no choices, and this model writes nothing",
        "题目没有选项，而该模型不会写出文本",
    ),
    "nothing_measured": (
        "No probe distinguishes {name} from a model without knowledge{why}. Give easier probes, more items (stage.items_per_cell), or a model that was trained on such texts.",
        "没有探针能把 {name} 与一无所知的模型区分开{why}。请用更容易的探针、更多题目（stage.items_per_cell），或在这类文本上训练过的模型。",
    ),
    "no_item_scored": (": no item could be asked", "：没有一个题目能够提问"),
    "all_at_chance": (
        " (all {num} cells are at chance or below resolution)",
        "（全部 {num} 个单元都处于随机水平或低于分辨率）",
    ),
    "probes_map": ("Capability map", "能力地图"),
    "probes_level": ("level {number}", "第 {number} 级"),
    "probes_note": (
        "Score above chance as a share of the range above chance: 0 is chance (or not distinguishable from it), 1 is all right. Levels are the cells of a family in the order of the table below.",
        "高出随机水平的部分占全部上升余地的比例：0 为随机水平（或无法与之区分），1 为全对。各级即下表中该题族各单元的次序。",
    ),
    "probes_title": ("Probes, cell by cell", "各单元的探针得分"),
    "parts_title": ("Parts: the sub-skills of these families", "构成它们的子技能"),
    "probes_columns": (
        "family|difficulty|items|metric|score|95 %|chance|by|log p per token|above chance",
        "题族|难度|题目数|指标|得分|95 %|随机水平|依据|每词元 log p|高于随机",
    ),
    "yes": ("yes", "是"),
    "no": ("no", "否"),
    "by_constant_answer": ("constant answer", "固定答案"),
    "by_permuted_answers": ("permuted answers", "打乱答案"),
    "by_untrained_model": ("untrained model", "未训练的模型"),
    # Why an item was not asked
    "item_has_picture": (
        "it has a picture, and this model reads text alone",
        "题目含图片，而该模型只读文本",
    ),
    "item_picture_unusable": ("its picture cannot be used: {error}", "图片无法使用：{error}"),
    "answer_without_tokens": (
        "the tokenizer gives no token for the answer {text!r}",
        "分词器对答案 {text!r} 不产生任何词元",
    ),
    "answer_not_writable": (
        "the answer {text!r} cannot be written: the tokenizer has no token for a part of it",
        "答案 {text!r} 无法写出：分词器没有其中一部分对应的词元",
    ),
    "item_too_long": (
        "it has {length} tokens, more than the model's {context}",
        "题目需 {length} 个词元，超过模型的 {context} 个",
    ),
}
