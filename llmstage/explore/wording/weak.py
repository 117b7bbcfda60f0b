"""Sentences on weak slices, their causes, and what would help."""

from __future__ import annotations

SENTENCES = {
    # Which slices are weak
    "too_few_rows": (
        "{num} scored rows of {split} are too few to look for weak slices: {half} to find one and {half} to confirm it are needed, {few} in all. Give more rows with data.test=<files>.",
        "{split} 中可评分的只有 {num} 行，不足以寻找薄弱切片：发现与确认各需 {half} 行，共 {few} 行。请用 data.test=<文件> 提供更多数据。",
    ),
    "rows_in_pool": (
        "{num} rows of {split} are also in the training pool; they were left out.",
        "{split} 中有 {num} 行也出现在训练池里，已剔除。",
    ),
    "rows_unpredicted": (
        "The model predicted nothing for {num} rows of {split}; they were left out.",
        "模型对 {split} 中的 {num} 行没有给出预测，这些行已剔除。",
    ),
    "none_confirmed": (
        "No weak slice was confirmed: {metric} {mean:.2f} on {num} rows of {split}, and no group of rows (by {columns}) is significantly worse than the rest.",
        "没有确认任何薄弱切片：在 {split} 的 {num} 行上，{metric} 为 {mean:.2f}；按 {columns} 划分，没有哪一组能肯定地说比其余更差。",
    ),
    "plan_written": (
        "plan.yaml has the keys of a run that improves it: llmstage stage=finetune plan=<this folder>/plan.yaml",
        "改进办法写在 plan.yaml 中：llmstage stage=finetune plan=<本目录>/plan.yaml",
    ),
    "exact_only": (
        "{slice}: only {n} rows confirm it, by an exact test; the size of the gap is uncertain.",
        "{slice}：仅有 {n} 行可供确认（用精确检验），差距的大小并不确定。",
    ),
    "not_confirmed": (
        "{slice}: was weak on one half ({split}) and was not confirmed on the other (n = {n}, gap {gap:+.2f}, p = {p:.2g} after Holm).",
        "{slice}：在一半数据（{split}）上显得薄弱，在另一半上没有得到确认（n = {n}，差距 {gap:+.2f}，Holm 校正后 p = {p:.2g}）。",
    ),
    "no_pool": (
        "Without training rows the coverage is unknown. Name the training pool: data.train=<files>.",
        "没有训练数据，无法判断覆盖情况。请指定训练池：data.train=<文件>。",
    ),
    "no_reason": ("{slice}: no test explains why it is weak.", "{slice}：没有哪项检验能说明它为何薄弱。"),
    "not_found": (
        "A weakness in fewer than {least} rows of a half, or one that no feature of a row describes ({columns}), is not found.",
        "若某处薄弱在一半数据中不足 {least} 行，或不体现在任何可描述的行特征（{columns}）上，则无法发现。",
    ),
    "rows_with": ("rows with {conditions}", "{conditions} 的行"),
    "both_conditions": (" and ", " 且 "),
    "condition": ('{column} "{value}"', "{column} 为“{value}”"),
    "is_weak": (
        "Rows with {conditions} are weak: {metric} {score:.2f} on {n} rows, against {rest:.2f} on all others (gap {gap:.2f}{span}). Why: {advice} (action: {action}{coverage}).",
        "{conditions} 的行表现薄弱：{n} 行上 {metric} 为 {score:.2f}，其余各行为 {rest:.2f}（差距 {gap:.2f}{span}）。原因与建议：{advice}（措施：{action}{coverage}）。",
    ),
    "gap_span": (", 95 % {low:.2f} to {high:.2f}", "，95 % 区间 {low:.2f} 至 {high:.2f}"),
    "gap_cell": (" ({low:.3f} to {high:.3f})", "（{low:.3f} 至 {high:.3f}）"),
    "coverage_note": (
        "; {coverage:.2%} of the training rows are like this, and {expected:.2%} of the scored ones",
        "；这类行占训练数据的 {coverage:.2%}，占评分数据的 {expected:.2%}",
    ),
    "weak_title": (
        "Weak slices, each confirmed on rows that the search did not use",
        "薄弱切片（每个都在未参与发现的数据上得到确认）",
    ),
    "weak_columns": (
        "slice|n|{metric}|rest|gap (95 %)|p (Holm)|why|action",
        "切片|n|{metric}|其余|差距（95 %）|p（Holm）|原因|措施",
    ),
    "examples_of": ("Examples: {slice}", "样例：{slice}"),
    "card_title": ("# Rows with {conditions}", "# {conditions} 的行"),
    "card_why": ("## Why", "## 原因"),
    "card_action": ("Action: **{action}**. {advice}.", "措施：**{action}**。{advice}。"),
    "card_examples": ("## Examples", "## 样例"),
    "plan_head": (
        "# Written by stage=explore. Apply it with: llmstage stage=finetune plan=<this file>\n"
        "# overrides: keys that the command line replaces. targeted.jsonl has the training rows that are like the weak ones, repeated\n"
        "# until they are about as many as all others; new rows like them help more: add their file to data.train.\n",
        "# 由 stage=explore 写成。应用方法：llmstage stage=finetune plan=<本文件>\n"
        "# overrides：其中的键让位于命令行中键入的键。targeted.jsonl 收录训练数据中与薄弱切片同类的行，重复到与其余各行\n"
        "# 数量大致相当；补充新的同类数据效果更好：把其文件加进 data.train。\n",
    ),
    # A metric where its name does not say it
    "metric_f1": ("F1", "F1"),
    "metric_loss": ("loss (nats a token)", "损失（nat/词元）"),
    "metric_reciprocal_rank": ("reciprocal rank", "倒数排名"),
    "metric_mean_accuracy": ("mean accuracy", "平均准确率"),
    "metric_deviation": ("distance in standard deviations", "偏离的标准差数"),
    # Groups of the model's own hidden states
    "group_like": ("like: {words}", "近似：{words}"),
    "group_number": ("group {number}", "第 {number} 组"),
    # Why
    "why_coverage": (
        "coverage: {coverage:.2%} of training rows match (of the scored rows: {expected:.2%})",
        "覆盖：训练数据中符合的占 {coverage:.2%}（评分数据中占 {expected:.2%}）",
    ),
    "why_elicits": (
        "elicits: {number} examples → {score:.2f} (from {was:.2f}, the rest {rest:.2f})",
        "一学就会：{number} 个样例 → {score:.2f}（原为 {was:.2f}，其余 {rest:.2f}）",
    ),
    "why_elicits_not": (
        "does not elicit: {number} examples → {score:.2f} (from {was:.2f}, the rest {rest:.2f})",
        "短期学不会：{number} 个样例 → {score:.2f}（原为 {was:.2f}，其余 {rest:.2f}）",
    ),
    "elicit_not_alone": (
        "not elicited: in this task rows are scored against each other",
        "未做试学：此任务的各行彼此比较着评分",
    ),
    "elicit_too_few": (
        "not elicited: {num} rows to train on are too few",
        "未做试学：可供训练的只有 {num} 行，太少",
    ),
    "elicit_lost": (
        "the copy lost elsewhere: {was:.2f} → {now:.2f} on the rest",
        "试学的副本在别处退步：其余各行 {was:.2f} → {now:.2f}",
    ),
    "why_size": (
        "size: the larger model {name} scores {score:.2f} here",
        "规模：更大的模型 {name} 在此得 {score:.2f}",
    ),
    "why_slope": (
        "still learning: {slope:+.3f} in 100 steps at the end of training",
        "仍在进步：训练结束时每 100 步 {slope:+.3f}",
    ),
    "why_tokens": (
        "tokenisation: {pieces:.1f} times as many tokens per character as elsewhere",
        "分词：每个字符的词元数是别处的 {pieces:.1f} 倍",
    ),
    "why_sure": (
        "confident and wrong: mean confidence {sure:.2f} in wrong answers",
        "错而自信：答错时的平均置信度为 {sure:.2f}",
    ),
    "why_unseen": (
        "rare words: {mine:.0%} of its rows have a word that training never shows (the rest: {rest:.0%})",
        "生僻词：{mine:.0%} 的行含有训练中从未出现的词（其余各行：{rest:.0%}）",
    ),
    "why_nats": (
        "the loss of the right text is {nats:+.2f} nats a token relative to elsewhere",
        "正确文本的代价比别处高 {nats:+.2f} nat/词元",
    ),
    # What would help
    "action_data": ("more training rows like these", "补充此类训练数据"),
    "action_train": ("train longer", "延长训练"),
    "action_structure": ("a larger model, or a longer context", "换用更大或上下文更长的模型"),
    "action_tokenizer": ("another tokenizer", "更换分词器"),
    "action_decode": (
        "check how answers are decoded and formatted, do not train",
        "检查答案的解码与书写方式，而非训练",
    ),
    "action_undecided": ("undecided", "尚无法判定"),
    "advice_data_few": (
        "the training data has few such rows: add training rows like these",
        "训练数据中几乎没有这类行：请补充此类训练数据",
    ),
    "advice_data_learned": (
        "a few steps on such rows fix it: add training rows like these",
        "在这类行上训练几步即可改善：请补充此类训练数据",
    ),
    "advice_train": (
        "validation was still getting better when training ended: train longer",
        "训练结束时验证指标仍在改善：请延长训练",
    ),
    "advice_structure": (
        "more rows like these do not fix it: take a larger model, or a longer data.context",
        "补充此类数据无济于事：请换用更大的模型，或加大 data.context",
    ),
    "advice_tokenizer": (
        "the tokenizer splits these texts into many tokens: train one on such texts",
        "分词器把这类文本切得过碎：请用这类文本训练分词器",
    ),
    "advice_decode": (
        "the right text is as likely here as elsewhere: check the format of the answer before you train",
        "正确文本在此处与别处同样可能：训练之前，请先检查答案的形式",
    ),
    "advice_undecided": (
        "no test explains it; the diagnosis needs rows of the slice to train on (data.train) or a larger model (stage.diagnosis.bigger)",
        "没有检验能说明原因；还需要该切片的训练数据（data.train）或更大的模型（stage.diagnosis.bigger）",
    ),
}
