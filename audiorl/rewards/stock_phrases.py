"""Stock phrases: what subtitle files end with, learnt by models that were trained on them, and said into silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from audiorl.rewards.base import ShippedReward
from audiorl.text.error_rates import UNSPACED_CHARACTER
from audiorl.text.normalizers import basic_text
from audiorl.text.pairs import completion_text

# By language; phrases that hardly occur in speech other than that of video makers. "Thank you" alone is none of them.
STOCK_PHRASES: dict[str, tuple[str, ...]] = {
    "en": (
        "thanks for watching",
        "thank you for watching",
        "please subscribe",
        "like and subscribe",
        "subscribe to my channel",
        "subscribe to our channel",
        "see you in the next video",
        "subtitles by",
        "captions by",
        "transcribed by",
        "transcription by",
        "amara.org",
    ),
    "de": (
        "Untertitel im Auftrag des ZDF",
        "Untertitel von",
        "Untertitelung des ZDF",
        "Untertitelung aufgrund der",
        "Danke fürs Zuschauen",
        "Vielen Dank fürs Zuschauen",
        "Copyright WDR",
    ),
    "fr": (
        "Sous-titres réalisés par",
        "Sous-titrage",
        "Merci d'avoir regardé cette vidéo",
        "Abonnez-vous à la chaîne",
    ),
    "es": (
        "Subtítulos realizados por",
        "Subtítulos por",
        "Gracias por ver el video",
        "Gracias por ver el vídeo",
        "Suscríbete al canal",
    ),
    "pt": ("Legendas pela comunidade", "Obrigado por assistir", "Inscreva-se no canal"),
    "it": ("Sottotitoli creati dalla", "Sottotitoli a cura di", "Grazie per aver guardato il video"),
    "nl": ("Ondertiteling door", "Ondertitels ingediend door", "Bedankt voor het kijken"),
    "pl": ("Napisy stworzone przez", "Dziękuję za obejrzenie", "Dzięki za oglądanie"),
    "ru": (
        "Субтитры сделал",
        "Субтитры создавал",
        "Редактор субтитров",
        "Спасибо за просмотр",
        "Подписывайтесь на канал",
    ),
    "uk": ("Дякую за перегляд", "Підписуйтесь на канал"),
    "tr": ("Altyazı M.K.", "İzlediğiniz için teşekkürler"),  # noqa: RUF001
    "sv": ("Textning Stina Hedin", "Tack för att ni tittade"),
    "no": ("Teksting av",),
    "ar": ("ترجمة نانسي قنقر", "اشتركوا في القناة", "شكرا على المشاهدة"),
    "hi": ("देखने के लिए धन्यवाद",),
    "vi": ("Cảm ơn các bạn đã theo dõi", "Hãy đăng ký kênh"),
    "ko": ("시청해주셔서 감사합니다", "구독과 좋아요"),
    "ja": ("ご視聴ありがとうございました", "チャンネル登録"),
    "zh": ("请不吝点赞", "字幕由", "字幕志愿者", "謝謝觀看", "谢谢观看", "感谢观看", "訂閱頻道"),
}


@dataclass(frozen=True, kw_only=True)
class NoStockPhrases(ShippedReward):
    """-1 for a stock phrase of subtitle files that was not spoken.

        reward = -1 where a phrase occurs oftener in the hypothesis than in the transcript, else 0

    Both texts pass `basic_text` first; a phrase matches whole words, except in scripts without spaces. In a `RewardSet`
    it overrides: a total that it touches is -1 times its weight at best.

    Args:
        phrases: whatever else is to be punished, beside or instead of `STOCK_PHRASES`; default these, all languages.
        name: see `ShippedReward`.

    Range: {-1, 0}. Silence, empty hypothesis: 0 for an empty hypothesis, whatever the transcript. A row without a
    transcript (None) gives None.

    Source: the phenomenon in Koenecke et al. 2024, arXiv:2402.08021; the list is ours.

    Raises:
        ValueError: a phrase of which the normaliser leaves nothing.
    """

    phrases: tuple[str, ...] = tuple(phrase for phrases in STOCK_PHRASES.values() for phrase in phrases)
    _padded: tuple[str, ...] = field(init=False, repr=False, compare=False)

    default_name: ClassVar[str] = "stock_phrases"
    overrides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        padded = tuple(_padded(basic_text(phrase)) for phrase in self.phrases)
        if "" in padded or not padded:
            raise ValueError(
                f"{self.__name__} looks for phrases of words; got {self.phrases!r:.200}. Leave out those without a "
                "letter."
            )
        object.__setattr__(self, "phrases", tuple(self.phrases))
        object.__setattr__(self, "_padded", padded)

    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no transcript."""
        return [
            None if transcript is None else self.score(basic_text(completion_text(completion)), transcript)
            for completion, transcript in zip(completions, text, strict=True)
        ]

    def score(self, said: str, transcript: str) -> float:
        """The penalty of one hypothesis; `said` has passed `basic_text`, the transcript not."""
        padded = f" {said} "
        for phrase in self._padded:
            if phrase in padded and _count(phrase, said) > _count(phrase, basic_text(transcript)):
                return -1.0
        return 0.0


def _count(padded_phrase: str, text: str) -> int:
    # two spaces between words, so that a phrase said twice in a row need not share one
    inner = padded_phrase.strip().replace(" ", "  ")
    start, end = padded_phrase[:1].isspace(), padded_phrase[-1:].isspace()
    return f" {text} ".replace(" ", "  ").count(" " * start + inner + " " * end)


def _padded(phrase: str) -> str:
    """Spaces around a phrase make it match whole words; in scripts without spaces there are none to match."""
    if not phrase:
        return ""
    start = "" if UNSPACED_CHARACTER.match(phrase[0]) else " "
    end = "" if UNSPACED_CHARACTER.match(phrase[-1]) else " "
    return start + phrase + end
