"""Makes the rows of a plan, each from its number and the settings alone.

    maker = RowMaker(tokenizer, RowSettings(count=600), texts="novels/")
    row = maker.row(plan(maker.settings, chats=False)[0])

Where a drawn document does not give every question its answer, or does not fit, the row is drawn again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

import numpy as np

from environments.datasets.reader_rows.answers import answers_stand
from environments.datasets.reader_rows.encoding import Row, RowEncoder, Turn, joined, skipping
from environments.datasets.reader_rows.fillers import Fillers, stretch
from environments.datasets.reader_rows.plan import RowPlan, RowSettings
from environments.datasets.reader_rows.questions import FactDraw, ReaderQuestion, Statement
from environments.datasets.reader_rows.registers import FOLLOW, Register
from environments.haystack.document_prompt import behind_text, request
from environments.haystack.facts import WORDS
from environments.haystack.filler.pool import Pool
from environments.haystack.layout import Hidden, LayoutError, lay_out
from environments.haystack.options import Options
from environments.haystack.prompt import Prompt, tagged_reply
from environments.haystack.tasks.task import Answer, Quiz
from environments.haystack.tokens import Tokens
from longthread.errors import ConfigError
from longthread.language_model import PromptTokenizer

POOL_ROWS = 16  # rows whose text comes from the same pools
ROW_TOKENS = 160  # of a row, for each question in it: the rest is text
FACTS_SHARE = 0.6  # of a row, at most, goes to statements, questions and answers
DOCUMENTS = (2, 8)  # that are read side by side
DOCUMENT_TOKENS = 512  # of a row, for each document in it
OTHERS = 0.25  # of what scattered entries leave of a row goes to others that nothing asks for
FILLS = 3  # of a register: by themselves its entries have more tokens than together, so each fill leaves some room
FILLER = 0.5  # of a document's statements, at least, stands beside them as other text
FEWER = 0.7  # of the questions are left when they take too much of a row
NAMELESS = 0.25  # of the questions name no document
STEPWISE = 0.5  # of the questions about one fact ask for steps too, in tags, and have none: who asks cannot know
TRIES = 60
# Tokens of a row's first piece that give way to conversations, if there are any, and to a short text with questions. With
# conversations alone (1,024 tokens a row) a reader took short prompts for these: it found 43 % of facts in their sentence.
CHAT_TOKENS, SHORT_TOKENS = 512, (320, 768)
ROOM = 2  # times the most of a short text has the shortest piece from which on rows have one


class RowMaker:
    """Makes rows for one tokenizer. `texts`: a folder, "" for none; `chats`: conversations, some of which join every row,
    or stand in rows of their own where the settings have such.

    Raises `ConfigError` for a tokenizer, a folder or a length of which no rows can be made.
    """

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        settings: RowSettings,
        texts: str = "",
        chats: Sequence[Sequence[Turn]] = (),
    ):
        self.settings, self.chats = settings, chats
        self.tokens = Tokens(tokenizer, {"enable_thinking": False})
        self.tokens.chat.prove()
        self.encoder = RowEncoder(self.tokens)
        self.fillers = Fillers(self.tokens, texts, settings.most, settings.seed)
        self._joined = bool(chats) and not settings.conversations
        self._chat_tokens = min(CHAT_TOKENS, settings.least // 2) if self._joined else 0
        self._short = self._joined and settings.least >= ROOM * SHORT_TOKENS[1]
        self._prompt = Prompt(self.tokens, Options(may_abstain="absent" in settings.kinds))

    def check(self) -> None:
        """Raise `ConfigError` unless the shortest rows can be made, in every form."""
        self.check_chats()
        settings = self.settings
        lengths = [(settings.shortest, 0)] * bool(settings.count)
        lengths += [(settings.pose_length, settings.longest)] * bool(settings.pose)
        rest = 1 - settings.parallel - settings.ordinary - settings.registers
        kinds = {"document": rest, "parallel": settings.parallel, "register": settings.registers}
        for kind in [kind for kind, share in kinds.items() if share > 0]:
            for form in settings.forms:
                for length, reach in lengths:
                    self.row(RowPlan(0, kind, length, form, reach=reach))

    def check_chats(self) -> None:
        """Raise `ConfigError` unless some conversation is short enough for the rows that are to hold one."""
        if self.settings.conversations:
            self._conversation(RowPlan(0, "chat", self.settings.conversation_length, self.settings.forms[0]))
        elif self._joined:
            self._drawn_chats(RowPlan(0, "document", self.settings.least, self.settings.forms[0]), self._chat_tokens)

    def row(self, plan: RowPlan) -> Row:
        """Return the row of a plan: its pieces, each of at most `plan.length` tokens, and conversations with a short text."""
        if plan.kind == "chat":
            return self._conversation(plan)
        make = self._text if plan.kind == "text" else self._reading
        name = f"{self.settings.seed} {plan.number}"
        short = self._short_text(plan, f"{name} short") if self._short else []
        pieces = []
        for number in range(plan.pieces):
            length = plan.length - (0 if number else self._chat_tokens + sum(map(len, short)))
            piece = make(replace(plan, length=length), f"{name} {number}")
            assert len(piece) <= length, (plan, number, len(piece))
            pieces.append(skipping(piece, plan.reach, Random(f"reader skip {name} {number}")) if plan.reach else piece)
        chats = [self.encoder.packed(self._drawn_chats(plan, self._chat_tokens))] if self._joined else []
        return joined([*pieces, *short, *chats])

    # ---- documents with questions ----

    def _reading(self, plan: RowPlan, seed: str) -> Row:
        if row := self._tried(plan, seed):
            return row
        raise ConfigError(
            f"no text of {plan.length} tokens with a question came out in {TRIES} tries: ask for longer rows",
            setting="pose_length" if plan.reach else "shortest",
        )

    def _tried(self, plan: RowPlan, seed: str) -> Row | None:
        """Return a row of a document, of parallel ones or of a register; None if none came out."""
        draw, room = self._drawn_register if plan.kind == "register" else self._drawn, plan.length
        for attempt in range(TRIES):
            rng = Random(f"reader row {seed} {attempt}")
            try:
                row = draw(plan, room, rng)
            except LayoutError:
                continue
            if row is None:
                continue
            if len(row) <= plan.length:
                return row
            room -= len(row) - plan.length  # this tokenizer's counts do not add up
        return None

    def _drawn(self, plan: RowPlan, room: int, rng: Random) -> Row | None:
        """Return a row of about `room` tokens.

        Returns None where a document gives another answer than it should, or one question takes too much of the row.
        """
        count = 1
        if plan.kind == "parallel":
            count = rng.randint(DOCUMENTS[0], min(DOCUMENTS[1], max(DOCUMENTS[0], plan.length // DOCUMENT_TOKENS)))
        draft = _Draft(plan, count, rng)
        for number in self._counts(plan.length):
            draft.draw(number, self.settings)
            turns = self._turns(draft, "")
            costs = self._costs(draft.statements, count)
            taken = len(self.encoder.chat(turns))
            if taken + costs.sum() <= FACTS_SHARE * room:
                break
        else:
            return None
        documents = self._documents(draft, costs, room - taken)
        if not answers_stand(documents, draft.statements, draft.questions):
            return None
        if plan.kind == "parallel":
            return self.encoder.parallel(documents, turns)
        return self.encoder.chat(self._turns(draft, documents[0]))

    def _counts(self, length: int) -> Iterator[int]:
        """Yield how many questions to try in a row: as many as are asked for, then fewer where these take too much of it."""
        number = min(self.settings.questions, max(1, length // ROW_TOKENS))
        while number > 1:
            yield number
            number = max(1, int(FEWER * number))
        yield number

    def _drawn_register(self, plan: RowPlan, room: int, rng: Random) -> Row | None:
        """Return a row of about `room` tokens of a register; None where one question takes too much of it."""
        seed = rng.random()
        for number in self._counts(plan.length):
            register = Register(Random(seed))
            draft = _Draft(plan, 1, rng)
            draft.ask(register.questions(number, "absent" in self.settings.kinds, plan.form == "tags"))
            asked = self.encoder.chat(self._turns(draft, register.example))
            taken = len(asked) + sum(self.tokens.mid(register.entries))
            if taken <= FACTS_SHARE * room:
                break
        else:
            return None
        if register.scattered:
            entries = register.entries + self._entries(register, int(OTHERS * (room - taken)))
            pool = self._pool(plan, rng)
            text = lay_out(pool, Hidden(entries, register.depths(entries)), room - len(asked), rng).text
            return self.encoder.chat(self._turns(draft, register.example + text))
        filler: list[str] = []
        for _ in range(FILLS):
            filler += self._entries(register, room - taken)
            row = self.encoder.chat(self._turns(draft, register.text(filler)))
            taken = len(row)
        return row

    def _entries(self, register: Register, room: int) -> list[str]:
        """Return entries, and whole chains of them, that nothing asks for, of about so many tokens."""
        entries: list[str] = []
        while True:
            more = register.more()
            room -= sum(self.tokens.mid(more))
            if room < 0:
                return entries
            entries += more

    def _costs(self, statements: Sequence[Statement], documents: int) -> np.ndarray:
        """Return the tokens of each document's statements."""
        costs = np.zeros(documents)
        np.add.at(costs, [s.document for s in statements], self.tokens.mid([s.text for s in statements]))
        return costs

    def _documents(self, draft: "_Draft", costs: np.ndarray, room: int) -> list[str]:
        """Return the texts, of `room` tokens together, each with its statements. Raises `LayoutError`."""
        rng = draft.rng
        weights = np.array([rng.uniform(0.3, 1) for _ in costs]) if len(costs) > 1 else np.ones(1)
        least = (1 + FILLER) * costs
        budgets = (least + (room - least.sum()) * weights / weights.sum()).astype(int)
        texts = []
        for i, budget in enumerate(budgets.tolist()):
            stated = [s for s in draft.statements if s.document == i]
            pool = self._pool(draft.plan, rng)
            hidden = Hidden([s.text for s in stated], [s.depth for s in stated])
            texts.append(lay_out(pool, hidden, budget, rng).text)
        return texts

    def _turns(self, draft: "_Draft", text: str) -> list[Turn]:
        """Return the questions with their replies; the first behind the text, unless the documents are read apart."""
        plain, alone = draft.plan.form == "plain", draft.plan.kind != "parallel"
        turns = []
        for i, question in enumerate(draft.questions):
            if question.begun:
                asked, reply = question.text, question.ending
            elif plain:
                asked, reply = request(draft.asked_of[i], question.text), question.answer
            else:
                asked = self._tagged(question, draft.stepwise[i])
                reply = tagged_reply(question.answer, question.steps)
            if alone and i == 0:
                asked = behind_text(text, asked) if plain or question.begun else self._prompt.content(text, asked)
            turns.append(Turn(asked, reply, question.begun))
        return turns

    def _tagged(self, question: ReaderQuestion, stepwise: bool) -> str:
        answer = Answer("one", (question.answer,), "text", question.steps)
        passed = "keys" if question.kind == FOLLOW else "people"
        quiz = Quiz((), (), question.text, answer, 2 if stepwise else 1, several=question.several, passed=passed)
        return self._prompt.question(quiz)

    def _short_text(self, plan: RowPlan, seed: str) -> list[Row]:
        """Return one short text with questions, or none where this tokenizer has no room for it in so few tokens."""
        length = Random(f"reader row {seed}").randint(*SHORT_TOKENS)
        row = self._tried(replace(plan, kind="document", length=length), seed)
        return [row] if row else []

    # ---- other text ----

    def _pool(self, plan: RowPlan, rng: Random) -> Pool:
        """Return a pool of fiction or of the texts, at random, that rows of near numbers share."""
        return self.fillers.pool(rng.choice(self.fillers.sources), plan.number // POOL_ROWS)

    def _text(self, plan: RowPlan, seed: str) -> Row:
        rng = Random(f"reader text {seed}")
        pool = self._pool(plan, rng)
        return self.encoder.text(stretch(pool, plan.length, rng), plan.length)

    def _conversation(self, plan: RowPlan) -> Row:
        """Return conversations as turns of one chat, which is one document: some kinds of attention take no more of a row."""
        chosen = self._drawn_chats(plan, plan.length)
        while len(row := self.encoder.chat([turn for turns in chosen for turn in turns])) > plan.length:
            chosen.pop()  # a template may take a token more between two turns than around one
        return row

    def _drawn_chats(self, plan: RowPlan, room: int) -> list[Sequence[Turn]]:
        """Return conversations drawn at random, as many as fit into so many tokens."""
        rng, chosen = Random(f"reader chat {self.settings.seed} {plan.number}"), list[Sequence[Turn]]()
        left = room
        for turns in rng.sample(self.chats, len(self.chats)):
            tokens = len(self.encoder.chat(turns))
            if tokens <= left:
                chosen.append(turns)
                left -= tokens
            elif chosen:
                break
        if not chosen:
            found = f"no conversation has {room:,} tokens or fewer: give shorter ones"
            if plan.kind == "chat" or room >= CHAT_TOKENS:
                raise ConfigError(found, setting="chat_rows")
            longer = "pose_length" if self.settings.pose else "shortest"
            raise ConfigError(f"{found}, or longer rows", setting=("chat_rows", longer))
        return chosen


class _Draft:
    """What is stated and asked in one row."""

    def __init__(self, plan: RowPlan, documents: int, rng: Random):
        self.plan, self.rng = plan, rng
        self.names = [f"{rng.choice(WORDS)} {number}" for number in rng.sample(range(1000), documents)]
        self.statements: list[Statement] = []
        self.questions: list[ReaderQuestion] = []
        self.asked_of: list[str] = []  # the name that stands in each question, if any
        self.stepwise: list[bool] = []  # whether each question asks for the people passed

    def draw(self, number: int, settings: RowSettings) -> None:
        """Draw so many questions, and the statements that they rest on, in place of the last ones.

        A link may lead into another document only where the reply names the people passed: then each of its tokens
        rests on one document, as that of a single fact does.
        """
        facts = FactDraw(self.rng, len(self.names), settings.wordings, self.plan.form == "tags", settings.lexical_gap)
        self.questions = facts.questions(number, settings.kinds)
        self.statements = facts.statements
        self.asked_of = [
            "" if self.rng.random() < NAMELESS else self.names[question.document] for question in self.questions
        ]
        share = STEPWISE if "linked" in settings.kinds else 0.0
        self.stepwise = [question.hops > 1 or self.rng.random() < share for question in self.questions]

    def ask(self, questions: list[ReaderQuestion]) -> None:
        """Ask these questions about a document without a name."""
        self.questions, self.asked_of = questions, [""] * len(questions)
        self.stepwise = [question.hops > 1 for question in questions]
