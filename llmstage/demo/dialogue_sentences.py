"""The sentences of the dialogue world: messages of the customers of a shop, each with its reply.

A reply is a function of the conversation before it. Its wording depends only on the wording of the question, so that a model
can in principle predict every token. In Chinese, a value is always between punctuation marks, where a byte-level BPE splits.
A name therefore always has the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmstage.demo import words


@dataclass(slots=True, frozen=True)
class FactPatterns:
    """The sentences about one type of fact; `{}` is the slot of its value."""

    states: tuple[str, ...]
    """Statements of the fact by the user."""
    noted: str
    """The reply to a statement, without the value."""
    asks: tuple[tuple[str, str], ...]
    """(question, reply) pairs; the first reply also follows a statement with a request to repeat it."""
    corrections: tuple[str, ...]
    retorts: tuple[str, ...]
    """Short corrections, used only where the last turn is about the same fact."""
    changed: str
    """The reply to a correction, without the value."""
    values: tuple[str, ...] = ()
    """The closed set of values; empty for numbers and dates, which are random."""
    strays: tuple[tuple[str, str], ...] = ()
    """(remark, reply) pairs that mention a value of this type that is not of the customer."""


@dataclass(slots=True, frozen=True)
class Language:
    """All sentences of one language."""

    facts: dict[str, FactPatterns]
    months: tuple[str, ...]
    date: str
    """Template of a date with `{day}` (always two digits, so that no date is part of another) and `{month}`."""
    join: str
    """Separator between two sentences."""
    greetings: tuple[tuple[str, str], ...]
    """(opening of the first message, opening of its reply)."""
    noted_both: str
    repeats: tuple[str, ...]
    """Requests to repeat, directly after a statement or a correction."""
    fillers: tuple[tuple[tuple[str, ...], str], ...]
    """(wordings of a question, its reply)."""
    farewells: tuple[tuple[str, str], ...]


ENGLISH = Language(
    facts={
        "name": FactPatterns(
            states=("My name is {}.", "The name is {}."),
            noted="Thank you, I noted your name.",
            asks=(
                ("What name do you have for me?", "Your name is {}."),
                ("Can you remind me which name I gave?", "Of course. Your name is {}."),
                ("Who gets the parcel?", "The name is {}."),
            ),
            corrections=("Sorry, the right name is {}.", "Please change that, my name is {}."),
            retorts=("No, sorry, my name is {}.", "Wait, the name is {}."),
            changed="No problem, I changed the name.",
            values=words("Anna Paul Maria Thomas Lucy David Emma Peter Nora Oscar Julia Simon"),
            strays=(("My best friend likes your shop, her name is {}.", "Happy to hear that."),),
        ),
        "item": FactPatterns(
            states=("I ordered a {}.", "Last week I bought a {}."),
            noted="Thank you, I noted the item.",
            asks=(
                ("What did I buy?", "You bought a {}."),
                ("Can you remind me which item I ordered?", "Of course. You ordered a {}."),
                ("What will be inside the parcel?", "We packed a {}."),
            ),
            corrections=("Sorry, I ordered a {}.", "Please change the item to a {}."),
            retorts=("No, sorry, a {}.", "Wait, I meant a {}."),
            changed="No problem, I changed the item.",
            values=words("lamp kettle teapot scarf clock basket mirror blanket chair vase candle towel"),
            strays=(("Do you still have a {} there?", "Yes, we still have some."),),
        ),
        "city": FactPatterns(
            states=("I live in {}.", "My house stands in {}."),
            noted="Thank you, I noted the city.",
            asks=(
                ("Where do I live?", "You live in {}."),
                ("Can you remind me which city I gave?", "Of course. You live in {}."),
                ("Where will the parcel go?", "We deliver in {}."),
            ),
            corrections=("Sorry, I live in {}.", "Please change the city, I live in {}."),
            retorts=("No, sorry, in {}.", "Wait, I meant in {}."),
            changed="No problem, I changed the city.",
            values=words("Lyon Paris Oxford Berlin Madrid Vienna Dublin Lisbon Geneva Milan Prague Oslo"),
            strays=(("Do you have another shop in {} too?", "No, we only have this shop."),),
        ),
        "day": FactPatterns(
            states=("Please come on {}.", "I stay home on {}."),
            noted="Thank you, I noted the day.",
            asks=(
                ("When will you come?", "We come on {}."),
                ("Can you remind me which day I chose?", "Of course. You chose delivery on {}."),
                ("When do I need to be home?", "Please be home on {}."),
            ),
            corrections=("Sorry, please come on {}.", "Please change the day, come on {}."),
            retorts=("No, sorry, on {}.", "Wait, I meant on {}."),
            changed="No problem, I changed the day.",
            values=words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
            strays=(("Do you open on {} too?", "Yes, we open every day."),),
        ),
        "order_number": FactPatterns(
            states=("My order has the number {}.", "Order number {}."),
            noted="Thank you, I noted the number.",
            asks=(
                ("What number does my order have?", "Your order has the number {}."),
                ("Can you remind me which number I gave?", "Of course. Your order has the number {}."),
            ),
            corrections=("Sorry, the right number: number {}.", "Please change it to number {}."),
            retorts=("No, sorry, number {}.", "Wait, I meant number {}."),
            changed="No problem, I changed the number.",
        ),
        "date": FactPatterns(
            states=("My order was dated {}.", "I have a bill dated {}."),
            noted="Thank you, I noted the date.",
            asks=(
                ("What date do you have for me?", "Your order was dated {}."),
                ("Can you remind me which date I gave?", "Of course. Your order was dated {}."),
            ),
            corrections=("Sorry, it was dated {}.", "Please change the date, it was dated {}."),
            retorts=("No, sorry, dated {}.", "Wait, I meant dated {}."),
            changed="No problem, I changed the date.",
        ),
    },
    months=words("January February March April May June July August September October November December"),
    date="{day} {month}",
    join=" ",
    greetings=(("Hello!", "Hello!"), ("Hi there.", "Hi!"), ("Good morning.", "Good morning!")),
    noted_both="Thank you, I noted both.",
    repeats=("Can you repeat that?", "What did you write down?"),
    fillers=(
        (("When do you open?", "What are your opening hours?"), "We open at nine and close at six."),
        (("How much for delivery?", "What does delivery cost?"), "Delivery costs nothing."),
        (("Can I get my money back?", "How do refunds work?"), "You get your money back within four weeks."),
        (("How can I pay?", "Do you take cards?"), "You can pay by card or cash."),
        (("Can you wrap it for me?", "Do you wrap gifts?"), "Yes, we wrap gifts for free."),
        (("Do I get any guarantee?", "What if it breaks?"), "We repair it for two years."),
        (("Do you have discounts?", "Any sale soon?"), "The next sale starts this spring."),
        (("One moment, please.", "Please wait for me."), "Take your time."),
        (("How are you?", "Did you sleep well?"), "I am very well, thank you."),
        (("We have rain here.", "Bad weather today."), "I hope the sun comes out soon."),
        (("Can I park near you?", "Where can I park?"), "You can park behind the shop."),
        (("Can I call you?", "Do you have any phone?"), "Please write to us, we have no phone."),
    ),
    farewells=(("Thank you, goodbye.", "Goodbye!"), ("No more questions.", "You are welcome!")),
)

CHINESE = Language(
    facts={
        "name": FactPatterns(
            states=("您记一下，名字是 {}。", "我来登记，名字是 {}。"),
            noted="谢谢，名字记下了。",
            asks=(
                ("我叫什么名字？", "查到了，名字是 {}。"),
                ("您帮我确认一下我叫什么？", "好的，名字是 {}。"),
                ("谁来收包裹？", "收货单上，名字是 {}。"),
            ),
            corrections=("抱歉，错了，名字是 {}。", "请改一下，名字是 {}。"),
            retorts=("不对，名字是 {}。", "等等，名字是 {}。"),
            changed="没关系，名字改好了。",
            values=words("王芳 李明 张伟 刘洋 陈静 杨帆 赵磊 黄丽 周杰 吴敏 徐强 孙悦"),
            strays=(("我有个朋友很喜欢你们店，名字是 {}。", "听到这个真高兴。"),),
        ),
        "item": FactPatterns(
            states=("我下了一单，商品是 {}。", "我上周买过，商品是 {}。"),
            noted="谢谢，商品记下了。",
            asks=(
                ("我买了什么？", "查到了，商品是 {}。"),
                ("您帮我确认一下我买的是什么？", "好的，商品是 {}。"),
                ("包裹里有什么？", "打包好了，商品是 {}。"),
            ),
            corrections=("抱歉，错了，商品是 {}。", "请改一下，商品是 {}。"),
            retorts=("不对，商品是 {}。", "等等，商品是 {}。"),
            changed="没关系，商品改好了。",
            values=words("台灯 水壶 茶杯 围巾 闹钟 篮子 镜子 毛毯 椅子 花瓶 蜡烛 毛巾"),
            strays=(("还有货吗，商品是 {}。", "有的，还有货。"),),
        ),
        "city": FactPatterns(
            states=("请寄给我，城市是 {}。", "我住得远，城市是 {}。"),
            noted="谢谢，城市记下了。",
            asks=(
                ("我住在哪里？", "查到了，城市是 {}。"),
                ("您帮我确认一下我在哪个城市？", "好的，城市是 {}。"),
                ("你们寄到哪里？", "送到您家，城市是 {}。"),
            ),
            corrections=("抱歉，错了，城市是 {}。", "请改一下，城市是 {}。"),
            retorts=("不对，城市是 {}。", "等等，城市是 {}。"),
            changed="没关系，城市改好了。",
            values=words("北京 上海 南京 杭州 成都 武汉 西安 苏州 广州 深圳 长沙 青岛"),
            strays=(("我妹妹也想要，城市是 {}。", "可以，我们也能送。"),),
        ),
        "day": FactPatterns(
            states=("请送到家，时间是 {}。", "我会在家，时间是 {}。"),
            noted="谢谢，时间记下了。",
            asks=(
                ("你们什么时候来？", "查到了，时间是 {}。"),
                ("您帮我确认一下我选的时间？", "好的，时间是 {}。"),
                ("我哪天要在家？", "我们会来，时间是 {}。"),
            ),
            corrections=("抱歉，错了，时间是 {}。", "请改一下，时间是 {}。"),
            retorts=("不对，时间是 {}。", "等等，时间是 {}。"),
            changed="没关系，时间改好了。",
            values=words("星期一 星期二 星期三 星期四 星期五 星期六 星期日"),
            strays=(("你们开门吗，时间是 {}。", "开的，我们每天都开门。"),),
        ),
        "order_number": FactPatterns(
            states=("我有订单，订单号是 {}。", "您查一下，订单号是 {}。"),
            noted="谢谢，订单号记下了。",
            asks=(
                ("我的订单号是多少？", "查到了，订单号是 {}。"),
                ("您帮我确认一下订单号？", "好的，订单号是 {}。"),
            ),
            corrections=("抱歉，错了，订单号是 {}。", "请改一下，订单号是 {}。"),
            retorts=("不对，订单号是 {}。", "等等，订单号是 {}。"),
            changed="没关系，订单号改好了。",
        ),
        "date": FactPatterns(
            states=("我付过款了，日期是 {}。", "您看账单，日期是 {}。"),
            noted="谢谢，日期记下了。",
            asks=(
                ("我是哪天付款的？", "查到了，日期是 {}。"),
                ("您帮我确认一下日期？", "好的，日期是 {}。"),
            ),
            corrections=("抱歉，错了，日期是 {}。", "请改一下，日期是 {}。"),
            retorts=("不对，日期是 {}。", "等等，日期是 {}。"),
            changed="没关系，日期改好了。",
        ),
    },
    months=tuple("123456789"),  # one digit: with 11, `1月14日` would be part of `11月14日`
    date="{month}月{day}日",
    join="",
    greetings=(("您好！", "您好！"), ("早上好！", "早上好！"), ("在吗？", "在的。")),
    noted_both="谢谢，都记下了。",
    repeats=("请重复一遍。", "您记的是什么？"),
    fillers=(
        (("你们几点开门？", "营业时间是什么？"), "我们九点开门，六点关门。"),
        (("运费是多少？", "送货要钱吗？"), "送货是免费的。"),
        (("可以退款吗？", "怎么退款？"), "一个月内可以退款。"),
        (("怎么付款？", "可以刷卡吗？"), "刷卡和现金都可以。"),
        (("可以包成礼物吗？", "你们有礼物包装吗？"), "可以，礼物包装免费。"),
        (("有保修吗？", "坏了怎么办？"), "我们保修两年。"),
        (("有折扣吗？", "最近打折吗？"), "春天会打折。"),
        (("请等一下。", "稍等一会儿。"), "好的，您慢慢来。"),
        (("你好吗？", "你今天怎么样？"), "我很好，谢谢您。"),
        (("我这里下雨了。", "今天天气不好。"), "希望天气快点变好。"),
        (("有停车场吗？", "在哪里停车？"), "店后面可以停车。"),
        (("可以打电话吗？", "你们有电话吗？"), "请写信给我们，店里没有电话。"),
    ),
    farewells=(("谢谢，再见。", "再见！"), ("没有别的问题了。", "不客气！")),
)

LANGUAGES = {"en": ENGLISH, "zh": CHINESE}
