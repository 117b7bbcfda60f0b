"""Sentences on a ladder of models: its axis, its verdicts, and how far the product of token accuracies explains them."""

from __future__ import annotations

SENTENCES = {
    "ladder_of_one": (
        "A ladder of one: no statement about emergence. Give more rungs: several checkpoints, sizes or seeds.",
        "阶梯只有一级：无法就涌现下结论。请提供更多级：多个检查点、规模或种子。",
    ),
    "ladder_no_probes": (
        "No probes: rungs are only listed, with their losses. stage.probes=[core] adds probes.",
        "没有探针：各级仅列出及其损失。stage.probes=[core] 会向它们提问。",
    ),
    "no_common_loss": (
        "No held-out loss for every rung (no common corpus, or models that give none): verdicts use {axis}. Losses on one corpus are the better axis: task=causal_lm data.test=<text>.",
        "并非每一级都有留出损失（没有共同语料，或模型给不出损失）：判定以 {axis} 为横轴。同一语料上的损失是更好的横轴：task=causal_lm data.test=<文本>。",
    ),
    "few_of_family": (
        "{family}: {num} items, fewer than {least}: nothing is claimed of it. stage.items_per_cell=<more> gives more.",
        "{family}：{num} 题，少于 {least} 题：不对其下结论。stage.items_per_cell=<更多> 会提更多问题。",
    ),
    "answer_loss_axis": (
        "The axis is the held-out loss of the answers, all families together; prompts are drawn at random, and no model can predict them. Along it a family breaks where it is ahead of or behind the others, and a single family hardly can. To see whether training has phases, use stage.ladder.x=steps.",
        "横轴是答案的留出损失（所有题族合计）；提示是随机抽取的，任何模型都无法预知。沿此轴，一个题族在超前或落后于其他题族之处出现突变，而单独一个题族几乎不会：训练是否分阶段，应以 stage.ladder.x=steps 来问。",
    ),
    "mixed_tokenizers": (
        "The rungs have different tokenizers: a loss per token does not compare across them, so the axis is loss per byte. A position on it is valid for these models together, not as a threshold of loss per token.",
        "各级的分词器不同：每词元损失不可相互比较，因此横轴为每字节损失。其上的位置对这些模型整体成立，但不能当作每词元损失的阈值。",
    ),
    "ladder_verdict": ("{family}, {where}: {verdict}: {text}", "{family}（{where}）：{verdict}。{text}"),
    "over_sizes": ("over sizes", "随规模"),
    "exact_match": ("exact match", "精确匹配"),
    "product_law": (
        "Exact match is within {near} of (token accuracy)^L in {share:.1%} of {cells} cells; {idle} of them are all but 0 or all but 1 on both sides, and of the other {telling} it is so in {known:.1%} (median gap of all {median:.4f}, largest {largest:.3f}): independent and equal tokens {explain} it.",
        "{cells} 个单元中有 {share:.1%} 的精确匹配与（词元准确率）^L 相差不超过 {near}；其中 {idle} 个两边都近乎 0 或近乎 1，其余 {telling} 个中有 {known:.1%} 如此（全部差距的中位数 {median:.4f}，最大 {largest:.3f}）：彼此独立且同等难度的词元{explain}。",
    ),
    "product_by_place": (
        "Of the product of the accuracies of its places, which need not be equal, it is within {near} in {share:.1%} of the cells, {known:.1%} of {telling} (largest gap {largest:.3f}): independent tokens {explain} it.",
        "与各位置准确率之积（各位置不必同等难度）相差不超过 {near} 的单元占 {share:.1%}，{telling} 个中的 {known:.1%}（最大差距 {largest:.3f}）：彼此独立的词元{explain}。",
    ),
    "product_explains": ("explain", "可以解释它"),
    "product_explains_not": ("do not everywhere explain", "并不能处处解释它"),
}
