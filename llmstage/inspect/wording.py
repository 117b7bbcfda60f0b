"""The sentences of stage=inspect in English and Chinese. This module only fills in values."""

from __future__ import annotations

from typing import Any

LEVELS = {"ok": ("OK", "正常"), "minor": ("minor", "轻微"), "major": ("major", "严重")}
REMEDY = ("Remedy:", "处理：")

SENTENCES = {
    "bad_rows": ("{count} rows of {split} cannot be used: {reason}", "{split} 中有 {count} 行不能使用：{reason}"),
    "lost_targets": ("{split}: {share} of the target tokens would be cut away ({ends} answers lose their end)", "{split}：{share} 的目标词元会被截掉（{ends} 个回答失去结尾）"),
    "cut": ("{split}: {share} of the tokens are in no example, cut by data.context={context}", "{split}：{share} 的词元不进入任何样本，被 data.context={context} 截掉"),
    "duplicates": ("{split}: {count} of {total} rows ({share}) repeat an earlier row", "{split}：{total} 行中有 {count} 行（{share}）与前面的行完全相同"),
    "conflicts": ("{split}: {count} of {total} rows ({share}) have the text of an earlier row and a different {word}", "{split}：{total} 行中有 {count} 行（{share}）与前面某行文本相同而 {word} 不同"),
    "seen": ("{count} of {total} rows of {split} ({share}) are in the training split too", "{split} 的 {total} 行中有 {count} 行（{share}）也出现在训练集里"),
    "contexts": ("{split}: {count} of {total} questions ({share}) are about a text that training has questions about too", "{split}：{total} 个问题中有 {count} 个（{share}）所问的文本训练时也问过"),
    "near": ("{split}: {count} of {total} rows ({share}) are near-duplicates of an earlier row (likeness {likeness} or more)", "{split}：{total} 行中有 {count} 行（{share}）与前面某行近似重复（相似度不低于 {likeness}）"),
    "near_seen": ("{count} of {total} rows of {split} ({share}) are near-duplicates of training rows (likeness {likeness} or more)", "{split} 的 {total} 行中有 {count} 行（{share}）与训练集的行近似重复（相似度不低于 {likeness}）"),
    "imbalance": ("{split}, {word}: {num} labels; the most frequent, {most}, has {top} of {total} rows and the rarest, {least}, has {low} (ratio {ratio})", "{split}，{word}：{num} 个标签；最多的 {most} 有 {top}/{total} 行，最少的 {least} 只有 {low} 行（比例 {ratio}）"),
    "unseen_labels": ("{split}, {word}: {count} of {total} rows have a label that is not in training: {names}", "{split}，{word}：{total} 行中有 {count} 行的标签训练集里没有：{names}"),
    "one_label": ("{split}, {word}: every row has the label {most}: there is nothing to learn", "{split}，{word}：所有行的标签都是 {most}：没有可学的东西"),
    "illegal_tags": ("{split}: {count} of {total} rows ({share}) have tags that are illegal in {scheme}; the first: {reason}", "{split}：{total} 行中有 {count} 行（{share}）的标签序列在 {scheme} 中不合法；第一处：{reason}"),
    "no_entities": ("{split}: {count} of {total} rows ({share}) have no entity", "{split}：{total} 行中有 {count} 行（{share}）没有实体"),
    "length_ratio": ("{split}: {count} of {total} pairs ({share}) have lengths that do not match (their ratio is far from the median {median})", "{split}：{total} 对中有 {count} 对（{share}）长度不相称（比例远离中位数 {median}）"),
    "copies": ("{split}: {count} of {total} rows ({share}) have a {target} that is a copy of the {source}", "{split}：{total} 行中有 {count} 行（{share}）的 {target} 照抄 {source}"),
    "wrong_script": ("{split}: {count} of {total} rows ({share}) have a {word} without a letter of {script}, the script of the others", "{split}：{total} 行中有 {count} 行（{share}）的 {word} 没有一个 {script} 字符，而其余行都是该文字"),
    "answers_outside": ("{count} rows of {split} have an answer that is not at its position in the context: {reason}", "{split} 中有 {count} 行的答案不在上下文的相应位置：{reason}"),
    "answers_twice": ("{split}: {count} of {total} rows ({share}) have an answer that occurs several times in its context and no answer_start; the first is taken", "{split}：{total} 行中有 {count} 行（{share}）的答案在上下文中多次出现且没有 answer_start；取第一处"),
    "captions": ("{split}: {count} of {total} rows ({share}) have a caption that a row with another image has too", "{split}：{total} 行中有 {count} 行（{share}）的描述与另一张图片的相同"),
    "same_picture": ("{told}", "{told}"),
    "time": ("{split} begins at {first}, before training ends at {last}: {count} of its {total} rows ({share}) are older than training data", "{split} 始于 {first}，早于训练集的结束时间 {last}：{total} 行中有 {count} 行（{share}）比所学内容更早"),
    "empty_answer": ("{split}: {count} of {total} conversations ({share}) have an answer without text", "{split}：{total} 段对话中有 {count} 段（{share}）含有空回答"),
    "replacement": ("{split}: {count} of {total} rows ({share}) contain the character U+FFFD, a sign of a wrong encoding", "{split}：{total} 行中有 {count} 行（{share}）含有 U+FFFD，这是编码错误留下的字符"),
    "double_bos": ("{split}: {count} of {total} examples ({share}) begin with the start token twice", "{split}：{total} 个样本中有 {count} 个（{share}）以两个起始词元开头"),
    "no_end": ("{split}: {count} of {total} learned answers ({share}) end without an end token in the loss, so the model would not learn to stop", "{split}：{total} 个要学的回答中有 {count} 个（{share}）的损失里没有结束词元，模型学不会停下"),
    "no_targets": ("{split}: {count} of {total} examples ({share}) have no target: they cost time and train nothing", "{split}：{total} 个样本中有 {count} 个（{share}）没有目标：只费时间，学不到东西"),
    "unknown": ("{split}: {share} of the tokens are unknown to the tokenizer", "{split}：{share} 的词元是分词器不认识的"),
    "round_trip": ("{split}: {count} of {total} texts ({share}) are changed by encoding and decoding, e.g. {before} to {after}", "{split}：{total} 段文本中有 {count} 段（{share}）经分词器往返后改变，例如 {before} 变成 {after}"),
    "template": ("{split}: {count} of {total} conversations ({share}) have texts that the chat template changes, e.g. trims", "{split}：{total} 段对话中有 {count} 段（{share}）的文本被聊天模板改动，例如去掉首尾空白"),
    "unread": ("{count} keys of the conversations are not read: {keys}", "对话中有 {count} 个键没有被读取：{keys}"),
    "left_out": ("{count} rows are left out: {reason}", "有 {count} 行被略去：{reason}"),
    "memory": ("the longest batch does not fit in memory", "最长的一批放不进内存"),
}  # fmt: skip
"""Sentences of findings. The same sentence reports a check without matches, with a count of 0."""

CHECKS = {
    "bad_rows": ("rows that cannot be used", "不能使用的行"), "lost_targets": ("targets cut away", "被截掉的目标"), "cut": ("tokens cut away", "被截掉的词元"),
    "duplicates": ("duplicates", "重复行"), "conflicts": ("contradictions", "互相矛盾的行"), "seen": ("seen in training", "训练时见过"),
    "contexts": ("contexts in training", "训练用过的上下文"), "near": ("near-duplicates", "近似重复"), "near_seen": ("near-duplicates of training", "与训练集近似重复"),
    "imbalance": ("balance of labels", "标签均衡"), "unseen_labels": ("labels new to training", "训练集没有的标签"), "one_label": ("a single label", "只有一个标签"),
    "illegal_tags": ("illegal tags", "不合法的标签序列"), "no_entities": ("rows without entities", "没有实体的行"), "length_ratio": ("lengths of pairs", "长度比例"),
    "copies": ("copies", "照抄"), "wrong_script": ("wrong script", "文字不对"), "answers_outside": ("answers outside the context", "答案不在上下文中"),
    "answers_twice": ("ambiguous answers", "位置不明的答案"), "captions": ("repeated captions", "重复的描述"), "same_picture": ("other leaks", "其他泄漏"),
    "time": ("leaks in time", "时间泄漏"), "empty_answer": ("empty answers", "空回答"), "replacement": ("wrong encoding", "编码错误"),
    "double_bos": ("doubled start token", "重复的起始词元"), "no_end": ("end token in the loss", "损失中的结束词元"), "no_targets": ("examples without targets", "没有目标的样本"),
    "unknown": ("unknown tokens", "未知词元"), "round_trip": ("decoding restores the text", "解码还原文本"), "template": ("chat template keeps the texts", "聊天模板保留文本"),
    "unread": ("keys that are not read", "未读取的键"), "left_out": ("rows left out", "被略去的行"), "memory": ("memory", "内存"),
}  # fmt: skip
"""Names of the checks, for the table of all checks."""

PLAN = {
    "time": (
        "One step on the longest batch took {step}; {steps} steps like those of this run take about {total}, without validation and saving.",
        "最长一批的一步用了 {step}；本次运行的 {steps} 步约需 {total}（不含验证与保存）。",
    ),
    "time_estimated": (
        "{steps} steps take about {total} by the machine's matrix-product rate, corrected by earlier plans, without validation and saving; nothing was measured (stage.measure=false).",
        "按本机矩阵乘法速度与此前预估的经验，{steps} 步约需 {total}（不含验证与保存）；没有实测（stage.measure=false）。",
    ),
    "memory": (
        "Memory of a step: {tensors} of tensors estimated ({parts}), {estimated} with the overhead of the allocator; measured {measured} ({ratio} of the estimate).",
        "一步的内存：预计张量占 {tensors}（{parts}），加上分配器开销为 {estimated}；实测 {measured}（为预计的 {ratio}）。",
    ),
    "memory_estimated": (
        "Memory of a step: {tensors} of tensors estimated ({parts}), {estimated} with the overhead of the allocator.",
        "一步的内存：预计张量占 {tensors}（{parts}），加上分配器开销为 {estimated}。",
    ),
    "history": (
        "Median error of {num} earlier plans on this machine: {memory} in memory and {time} in the time of a step. New estimates are corrected by them.",
        "在本机上，此前 {num} 次预估的误差中位数：内存 {memory}，步时 {time}（之后的预估已据此修正）。",
    ),
    "no_history": (
        "No plan was measured on this machine before, so the error of the estimate is unknown.",
        "本机此前没有实测过的预估，因此预计的误差尚不可知。",
    ),
    "no_estimate": (
        "The memory of a step could not be computed on meta tensors for this model ({reason}); the rough estimate is {estimated}.",
        "无法在 meta 张量上算出该模型一步所占的内存（{reason}）；粗略估计为 {estimated}。",
    ),
}

PARTS = {
    "weights": ("weights", "权重"), "gradients": ("gradients", "梯度"), "optimizer": ("optimizer", "优化器"),
    "activations": ("activations", "激活"), "logits": ("logits", "logits"),
}  # fmt: skip

TITLES = {
    "lint_title": ("Lint: checks of the data", "数据检查结果"),
    "lint_columns": (("level", "check", "split", "found", "of", "rows", "remedy"), ("级别", "检查项", "划分", "发现", "总数", "行", "处理")),
    "plan_title": ("The plan", "计划"),
    "memory_title": ("Memory of a step, MiB", "一步所占内存（MiB）"),
    "history_title": ("Estimated and measured", "预计与实测"),
    "history_columns": (("when", "task", "model", "M parameters", "s per step, estimated", "measured", "MiB, estimated", "measured"), ("时间", "任务", "模型", "百万参数", "步时预计（秒）", "实测", "内存预计（MiB）", "实测")),
    "row": ("Row {location}", "行 {location}"),
    "row_note": ("{num_tokens} tokens, {num_targets} of them learned{end}; {check}", "{num_tokens} 个词元，其中 {num_targets} 个要学{end}；{check}"),
    "whole_note": ("{num_tokens} tokens, one target for the whole row: {reference}; {check}", "{num_tokens} 个词元，整行学一个目标：{reference}；{check}"),
    "same": ("decoding restores the text", "解码后与原文一致"),
    "other": ("decoding gives another text: {text}", "解码后与原文不同：{text}"),
    "cut": ("cut or split into windows, so there is no complete text to compare", "被截断或分窗，没有完整文本可比"),
    "legend": ("learned tokens are green (between ⟦ and ⟧ on a pipe), special ones violet", "要学的词元为绿色（管道中以 ⟦ ⟧ 标出），特殊词元为紫色"),
    "template": ("the chat template, rendered", "渲染后的聊天模板"),
    "learned": ("learned", "要学"), "special": ("special", "特殊"), "read": ("read", "只读"),
    "ids": ("token ids", "词元编号"),
    "more": ("… {num} more", "……另有 {num} 个"),
    "tools": ("tools: {names}", "工具：{names}"),
    "calls": ("answers with tool calls: {num}", "含工具调用的回答：{num}"),
    "reasoning": ("answers with reasoning: {num}, written by the template: {written}", "含推理的回答：{num}，模板写出的：{written}"),
    "context_only": ("answers that are context only: {num}", "仅作上下文的回答：{num}"),
    "part": ("{location}, example {number} of {num}", "{location}，样本 {number}/{num}"),
    "end": (", the end token among them", "，包括结束词元"),
    "no_end": (", no end token among them", "，不含结束词元"),
    "all_ok": ("Lint: {num} checks, no problems.", "检查：{num} 项，均无问题。"),
    "some": ("Lint: {num} checks, {major} major and {minor} minor findings.", "检查：{num} 项，{major} 项严重，{minor} 项轻微。"),
}  # fmt: skip


def sentence(key: str, language: str, **values: Any) -> str:
    """Return a sentence of the plan, or a title."""
    template: Any = (PLAN.get(key) or TITLES[key])[language == "zh"]
    return str(template).format(**values)


def column_names(key: str, language: str) -> list[str]:
    """Return the column headings of a table."""
    return [str(name) for name in TITLES[key][language == "zh"]]
