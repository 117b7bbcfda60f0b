"""The language of the demo world of shapes: names, positions, relations, captions and questions in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llmstage.demo import words

SHAPES = words("circle square triangle star cross diamond")
COLOURS = words("red orange yellow green cyan blue purple black")
SIZES = words("small large")
RELATIONS = words("left right above below")
OPPOSITE = MappingProxyType({"left": "right", "right": "left", "above": "below", "below": "above"})
QUESTION_TYPES = words("existence counting attribute comparison spatial negation two_step")

PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
"""Names of the nine cells, row by row."""


@dataclass(slots=True, frozen=True)
class SceneLanguage:
    """One language. `names` maps the keys of the world to words; the other fields are templates of sentences."""

    names: Mapping[str, str]
    appearance: str
    """An object with its {size}, {colour} and {shape}."""
    at: str
    """{it} is at {place}."""
    related: str
    """{it} has {relation} to {other}."""
    join: str
    join_last: str
    there_is: str
    describe: str
    """The prompt of captioning, which decides the language of the caption."""
    questions: Mapping[str, tuple[str, ...]]
    """Pattern to its wordings. The name of a pattern begins with its question type."""


ENGLISH = SceneLanguage(
    names=MappingProxyType(
        {name: name for name in (*SHAPES, *COLOURS, *SIZES, "yes", "no", "1", "2", "3")}
        | dict(zip(RELATIONS, ("to the left of", "to the right of", "above", "below"), strict=True))
        | {f"at {cell}": f"at the {cell}" for cell in PLACES}
        | {"at left": "on the left", "at middle": "in the middle", "at right": "on the right"}
        | {f"many {name}": f"{name}es" if name.endswith("s") else f"{name}s" for name in SHAPES}
    ),
    appearance="a {size} {colour} {shape}",
    at="{it} {place}",
    related="{it} {relation} {other}",
    join=", ",
    join_last=" and ",
    there_is="there is ",
    describe="Describe the picture.",
    questions=MappingProxyType(
        {
            "existence.pair": ("Is there any {colour} {shape}?", "Can you see any {colour} {shape}?"),
            "existence.size": ("Is there any {size} {shape}?", "Can you see any {size} {shape}?"),
            "counting.shape": ("How many {shapes} are there?", "What is the number of {shapes}?"),
            "counting.colour": ("How many {colour} objects are there?", "What is the number of {colour} objects?"),
            "attribute.colour": ("What colour is the {shape}?", "Which colour does the {shape} have?"),
            "attribute.shape": ("What shape is the {colour} object?", "Which shape does the {colour} object have?"),
            "attribute.size": ("Is the {shape} small or large?", "What size is the {shape}, small or large?"),
            "comparison.larger": ("Is the {shape} larger than the {other}?",),
            "comparison.colour": ("Do the {shape} and the {other} have the same colour?",),
            "comparison.which": ("Which is larger, the {shape} or the {other}?",),
            "spatial.related": ("Is the {colour} {shape} {relation} the {other_colour} {other}?",),
            "spatial.colour": ("What colour is the object {place}?",),
            "spatial.shape": ("What shape is the object {place}?",),
            "negation.none": ("Is it true that there is no {colour} {shape}?",),
            "negation.any": ("Is there an object that is not {colour}?",),
            "negation.shape": ("What shape is the object that is not {colour}?",),
            "two_step.colour": ("What colour is the object {relation} the {other}?",),
            "two_step.shape": ("What shape is the other object with the colour of the {other}?",),
        }
    ),
)

CHINESE = SceneLanguage(
    names=MappingProxyType(
        dict(zip(SHAPES, words("圆形 正方形 三角形 五角星 十字形 菱形"), strict=True))
        | dict(zip((f"many {name}" for name in SHAPES), words("圆形 正方形 三角形 五角星 十字形 菱形"), strict=True))
        | dict(zip(COLOURS, words("红色 橙色 黄色 绿色 青色 蓝色 紫色 黑色"), strict=True))
        | dict(zip(RELATIONS, words("左边 右边 上面 下面"), strict=True))
        | dict(
            zip(
                (f"at {cell}" for cell in PLACES),
                words("左上角 正上方 右上角 左侧 中间 右侧 左下角 正下方 右下角"),
                strict=True,
            )
        )
        | {"small": "小", "large": "大", "yes": "是", "no": "否", "1": "1", "2": "2", "3": "3"}
    ),
    appearance="{colour}的{size}{shape}",
    at="{it}在{place}",
    related="{it}在{other}的{relation}",
    join="，",
    join_last="，",
    there_is="图中",
    describe="描述这张图片。",
    questions=MappingProxyType(
        {
            "existence.pair": ("图中有{colour}的{shape}吗？", "能看到{colour}的{shape}吗？"),
            "existence.size": ("图中有{size}{shape}吗？", "能看到{size}{shape}吗？"),
            "counting.shape": ("图中有几个{shape}？", "{shape}的数量是多少？"),
            "counting.colour": ("图中有几个{colour}的物体？", "{colour}物体的数量是多少？"),
            "attribute.colour": ("{shape}是什么颜色？", "图中的{shape}是哪种颜色？"),
            "attribute.shape": ("{colour}的物体是什么形状？", "图中{colour}的物体是哪种形状？"),
            "attribute.size": ("{shape}是大还是小？", "图中的{shape}是大的还是小的？"),
            "comparison.larger": ("{shape}比{other}大吗？",),
            "comparison.colour": ("{shape}和{other}的颜色相同吗？",),
            "comparison.which": ("{shape}和{other}，哪个更大？",),
            "spatial.related": ("{colour}的{shape}在{other_colour}的{other}的{relation}吗？",),
            "spatial.colour": ("{place}的物体是什么颜色？",),
            "spatial.shape": ("{place}的物体是什么形状？",),
            "negation.none": ("“图中没有{colour}的{shape}”，这句话是真的吗？",),
            "negation.any": ("图中有不是{colour}的物体吗？",),
            "negation.shape": ("不是{colour}的物体是什么形状？",),
            "two_step.colour": ("{other}{relation}的物体是什么颜色？",),
            "two_step.shape": ("与{other}颜色相同的另一个物体是什么形状？",),
        }
    ),
)

SCENE_LANGUAGES = MappingProxyType({"en": ENGLISH, "zh": CHINESE})
LANGUAGES = tuple(SCENE_LANGUAGES)
