"""The wording of the generated support tickets: clauses with ``[choice|choice]`` and ``{slot}``, written for al_ray.

A clause carries a class only where it stands under that class. Openers, backgrounds and closers are shared by all
classes and use the words of every class, so that no single word gives a label away. Repeated empty strings are weights:
the chance that a ticket has no such part.
"""

from typing import NamedTuple


class Wording(NamedTuple):
    """The clauses of one class: those most customers use, and those that few do."""

    common: tuple[str, ...]
    rare: tuple[str, ...]


SLOTS: dict[str, tuple[str, ...]] = {
    "when": (
        "yesterday",
        "this morning",
        "last week",
        "on Monday",
        "two days ago",
        "on Friday",
        "over the weekend",
        "earlier this month",
        "after lunch",
        "last night",
    ),
    "product": (
        "planner",
        "desk lamp",
        "headset",
        "starter kit",
        "wall clock",
        "label printer",
        "travel charger",
        "keyboard",
        "sensor pack",
        "notebook bundle",
    ),
    "screen": (
        "calendar",
        "dashboard",
        "reports page",
        "settings page",
        "inbox",
        "task list",
        "export screen",
        "search page",
        "contact list",
        "team overview",
    ),
    "device": ("phone", "tablet", "laptop", "work computer", "new phone", "old tablet", "desktop"),
    "plan": ("basic plan", "family plan", "team plan", "yearly plan", "premium plan", "trial"),
    "who": ("my manager", "a colleague", "my daughter", "our accountant", "my husband", "the team", "a neighbour"),
    "place": ("Leeds", "Porto", "Graz", "Utrecht", "Odense", "Tampere", "Lyon", "Bergen", "Turin", "Gdansk"),
    "amount": ("9 euros", "14 euros", "25 euros", "49 euros", "80 dollars", "120 dollars", "19 pounds", "36 pounds"),
    "count": ("two", "three", "four", "five", "six", "eight", "ten"),
    "span": ("two days", "a week", "nearly a month", "three weeks", "a few hours", "the whole day", "ten days"),
}

CLASSES: dict[str, Wording] = {
    "billing": Wording(
        common=(
            "[I was|we were|my account was] charged [twice|two times|{count} times] for the {product} {when}",
            "the [total|amount] on the [invoice|statement] does not match what I [agreed to|saw] for the {plan}",
            "please [send|issue] [a corrected invoice|a receipt] for the {amount} we paid {when}",
            "a [payment|debit] of {amount} went out and I do not [know|recognise] what it was for",
            "the [refund|credit] of {amount} that you promised has not [shown up|reached my bank]",
            "the discount code for the {plan} was not [applied|taken off] at checkout",
            "my [bank|card company] [declined|refused] the payment for the {plan} and I want to try another card",
            "[I wonder|can you explain] why the {plan} suddenly costs {amount} [more|extra] each month",
            "tax was [added|counted] wrongly on the order for the {product}",
            "I need our company [address|tax number] on the invoice for the {product}",
            "the price at checkout was {amount} [higher|more] than the one [shown|advertised] for the {product}",
            "you took the yearly fee although I [chose|picked] to pay monthly",
        ),
        rare=(
            "somebody dipped into my wallet for {amount} and the paperwork says nothing about it",
            "the ledger [does not add up|is off by {amount}] once I put your slip beside mine",
            "our bookkeeping will not close the quarter because your figures are {amount} out",
            "I am out of pocket by {amount} thanks to your till",
            "the levy on the {product} looks like it belongs to another country",
            "kindly reimburse the surplus of {amount}",
        ),
    ),
    "bug": Wording(
        common=(
            "the {screen} [crashes|closes by itself|freezes] [whenever|every time] I [open|scroll] it on my {device}",
            "[nothing happens|I only get a blank page] when I [press|tap] the save button on the {screen}",
            "the {screen} shows [the wrong date|yesterday's numbers|an error message] [after|since] the update",
            "[totals|names|entries] on the {screen} are [cut off|doubled|mixed up]",
            "the app on my {device} [drains the battery|gets very hot|stops responding] while the {screen} is open",
            "the {screen} [does not load|keeps loading] and the spinner never [stops|goes away]",
            "notifications [arrive late|come {count} times|have stopped] on my {device} after the update",
            "the [export|upload] from the {screen} [stops|fails] at [half|ninety percent] with an error",
            "the {product} [loses its connection|disconnects] from the app every few minutes",
            "[changes|notes] I make on the {screen} are [gone|lost] after I [restart|refresh] the {device}",
            "the [filter|sort order] on the {screen} [returns|gives] [nothing|the wrong entries]",
            "text on the {screen} [overlaps|is unreadable] on my {device}",
        ),
        rare=(
            "the {screen} has gone [haywire|bonkers] and flickers like a broken tube",
            "my {device} [chokes|conks out] as soon as the {screen} wakes up",
            "something regressed: the {screen} now renders garbage glyphs",
            "the {product} sulks with a red light and will not talk to anything",
            "there is a gremlin in the {screen}, figures jump about on their own",
            "stale values linger on the {screen} until I reinstall everything",
        ),
    ),
    "access": Wording(
        common=(
            "I cannot [log in|sign in] [on|from] my {device} although the password is [right|correct]",
            "the [reset|confirmation] [mail|link] for my password never [arrives|reaches me]",
            "my account has been [locked|blocked] after {count} [tries|attempts] {when}",
            "the code for the second step is [not accepted|always too old] on my {device}",
            "{who} needs [access|permission] to the {screen} and I do not know how to [grant|give] it",
            "it says my [user name|email address] is unknown when I try to [get in|sign in]",
            "I [lost|changed] my {device} and now the sign-in code goes to the old one",
            "I am [logged out|signed out] every few minutes and have to enter the password again",
            "please [move|change] the login to my new email address because the old one is closed",
            "{who} left and we can no longer get into the [shared|admin] account",
            "the invitation link for {who} has [expired|run out] before the account was set up",
            "the page says I have no [rights|permission] to open the {screen}",
        ),
        rare=(
            "I am [shut out|stranded outside] and the front gate of your site laughs at my passphrase",
            "my credentials have been rejected since I swapped the SIM in my {device}",
            "the authenticator on my {device} was wiped and I have no spare keys",
            "the single sign-on handshake [bounces|loops] and dumps me at the door again",
            "kindly reinstate my profile, it claims that I do not exist",
            "whoever guards the {screen} will not let {who} through",
        ),
    ),
    "shipping": Wording(
        common=(
            "the [parcel|package] with the {product} has not [arrived|turned up] after {span}",
            "the tracking for order {number} has not [moved|changed] for {span}",
            "the [courier|driver] left the {product} at the wrong [address|house] in {place}",
            "the {product} [came|arrived] with a [broken|crushed] box and a piece is missing",
            "[can you|please] [send|deliver] order {number} to my office in {place} instead",
            "I [got|received] a {product} but I had ordered {count} of them",
            "how long does [delivery|shipping] to {place} [take|last] for the {product}",
            "the {product} was sent back to you because nobody was at home in {place}",
            "[when|on which day] will order {number} leave the warehouse",
            "you sent the wrong {product} and I need [a label to return it|it exchanged]",
            "the tracking says delivered but the {product} is not [here|at my door] in {place}",
            "only half of order {number} was in the [box|parcel]",
        ),
        rare=(
            "my {product} seems to be touring the continent, last seen near {place}",
            "customs at {place} are sitting on the crate and want papers from you",
            "the carton looked as if a lorry had driven over it",
            "the depot in {place} shrugs and says your consignment was never scanned",
            "the pick-up locker swallowed the {product} and will not open",
            "freight to {place} has gone astray for {span}",
        ),
    ),
    "feature": Wording(
        common=(
            "[it would be great|it would help us] if the {screen} could [show|remember] the last {count} entries",
            "[please add|we miss|I wish there was] a dark [mode|theme] for the {screen}",
            "[is there|will there be] a way to [print|share] the {screen} with {who}",
            "I [suggest|propose] a [button|shortcut] on the {screen} that copies everything at once",
            "could you [offer|support] the {screen} in [Danish|Polish|Portuguese|Finnish] too",
            "a [widget|weekly summary] for the {screen} on my {device} would save us time",
            "[please let|allow] us [rename|colour|group] the entries on the {screen}",
            "[are you planning|do you plan] to connect the {screen} with [other calendars|our own tools]",
            "an option to [undo|schedule] changes on the {screen} would be [welcome|useful]",
            "the {product} should also work without [the app|a connection], have you thought of that",
            "we would [love|like] to see charts for {span} at a time on the {screen}",
            "voice [input|control] for the {screen} would make it [easier|quicker] for {who}",
        ),
        rare=(
            "food for thought: let the {screen} whisper a summary at breakfast",
            "on my wish list for the {screen} is drag and drop with {count} fingers",
            "the competition lets you pin things, a nudge in that direction for the {screen}",
            "have you considered an interface for programmers, so that scripts can feed the {screen}",
            "my two cents: the {screen} deserves keyboard chords",
            "bring offline drafts to the {screen} and {who} will sing your praise",
        ),
    ),
    "cancellation": Wording(
        common=(
            "I want to [cancel|end|stop] the {plan} [at the end of the month|from today|before it renews]",
            "please [close|delete] my account and [remove|erase] all my data",
            "do not renew the {plan} when it [runs out|ends]",
            "we [no longer need|have stopped using] the {plan} and would like to [leave|finish]",
            "how do I [quit|get out of] the {plan} before the next month",
            "[I am|we are] moving to another provider, so please [end|terminate] the {plan}",
            "I signed up for the {plan} by mistake and want to [undo|withdraw from] it",
            "please [confirm|let me know] that the {plan} is [cancelled|ended] as I asked {when}",
            "[stop|cancel] order {number} for the {product}, I do not want it any more",
            "the {plan} for {who} should be [stopped|closed] next week",
            "I would like to [pause|suspend] the {plan} for good and not come back",
            "what is the notice period if we [leave|give up] the {plan}",
        ),
        rare=(
            "this is where we part ways, pull the plug on the {plan}",
            "consider this letter my formal notice regarding the {plan}",
            "strike {who} and me off your books for good",
            "I am throwing in the towel with the {plan}",
            "let the {plan} lapse, {who} will not be staying aboard",
            "wind the whole thing down and forget that I was ever here",
        ),
    ),
}

OPENERS: tuple[str, ...] = (
    *[""] * 6,
    "Hello,",
    "Hi there,",
    "Good morning,",
    "Dear team,",
    "Quick question:",
    "Once again:",
)

BACKGROUNDS: tuple[str, ...] = (
    *[""] * 13,
    "I paid for the {plan} {when}",
    "my card was renewed {when}",
    "I signed in {when} as usual",
    "we changed our password {when}",
    "the last parcel came on time",
    "order {number} was fine",
    "the app was updated {when}",
    "I use the {screen} every day",
    "{who} has the {plan} as well",
    "we almost left last year",
    "the {product} works well otherwise",
    "the invoice came {when}",
    "I saw the new {screen} {when}",
)

CLOSERS: tuple[str, ...] = (
    *[""] * 8,
    "Thanks.",
    "Please help.",
    "Can you look into it?",
    "I am waiting for an answer.",
    "Best wishes from {place}.",
    "Please call me at {number}.",
)

ASIDES: tuple[str, ...] = (
    "Less urgent:",
    "A smaller point:",
    "When you have time:",
    "Not so important:",
    "Only by the way:",
)

JUNK: tuple[str, ...] = (
    "[ERROR|WARN|INFO|DEBUG] worker-{number} [timeout|retry|heartbeat] code={number} elapsed={number}ms queue={count}",
    "{number} {number} {number} {number} {number} [ok|nok|nan] {number}",
    "[win|claim|grab] a free [cruise|watch|voucher] now, click the link, only {count} [left|today], code {number}",
    "[lorum vasti|perim doka|salu venti] [nor brema|tik olu|ranto mi] [kessa du|fira ploma] {number} vel {count}",
    "GET /items/{number} [200|404|500] {number} bytes agent=[bot|probe|crawler]-{number}",
    "[asdf|qwer|zxcv] [jkl|uiop|bnm] [hgfd|poiu|mnbv] {number} [aaa|hhh|zzz]",
    "[recipe|weather|football] for {place}: {count} [eggs|degrees|goals], {count} [spoons|clouds], see page {number}",
    "automatic reply: out of the office until day {number}, ticket robot {number} will not read this",
    "row;{number};{number};[yes|no];{place};{number};[a|b|c]{number}",
    "earn {amount} per hour from home, ask for agent {number} in {place}",
)
