"""What `audiorl evaluate --output file.json` writes, and how it is read again.

One JSON object, UTF-8, written as a whole or not at all. Rates and shares are fractions, times are seconds; numbers are
finite, and what does not apply is null.

    format        "audiorl evaluation"
    version       1; a later version adds keys under the same number and raises it where one changes its meaning
    date          when it was written, ISO 8601 with the offset: "2026-11-21T15:04:05+00:00"
    versions      {"audiorl": "...", "python": "...", "torch": "...", "transformers": "...", "jiwer": "...", ...}
    settings      what the run was asked for:
        task            "transcription" or "labels"
        text_column     column of the transcripts (of the labels)
        normaliser      its name, as applied to transcripts, hypotheses, keywords and labels
        unit            "word", "character", "mixed" or "auto", as asked
        group_column    whose values the bootstrap draws, usually speakers; null: clips
        level           0.95, of every interval
        resamples, seed of the bootstrap
        keywords        list of texts for all clips; null: each row's own column, where there is one
        duration_edges  seconds at which one duration group ends and the next begins
        aliases         {label: [other spellings]}; {} for transcription
    measurements  one for each model and dataset, models in the order given and for each of them the datasets:
        model           folder, Hub name, or the served model's name
        dataset         file, folder or name
        left_out        clips that --min_audio_seconds and --max_audio_seconds left out
        decoding        the settings of the search in force: {"batch_size": 16, "num_beams": 1, "max_length": 40,
                        "dtype": "float32", "device": "cpu", ...}; of a served model {"endpoint": URL, ...}
        summary         the numbers of all clips, see below
        breakdown       {"speaker": [...], "language": [...], "duration": [...]}: summaries of parts, each with its
                        "value" ("1919", "en", "2-5 s"); [] where rows carry no such column. Counts of speakers and
                        durations add up to the summary's. Languages are each counted in a unit of their own where
                        unit is "auto", so theirs need not.
        labels          null, or {"accuracy", "interval", "per_label": [{"label", "clips", "right", "accuracy"}],
                        "confusion": [{"label", "predicted", "clips"}]}; predicted null: no known label was said
        clips           one for each row, in the order of the rows:
            id              the row's `id` as text, or its place where it has none
            where           the row's place for a person: "validation.jsonl:12", "row 3"
            audio           absolute path or address; null where the audio exists only inside the data set
            transcript      as in the row, "" for silence (for labels: the label)
            hypothesis      as the model said it, neither normalised
            substitutions, deletions, insertions, hits    in the summary's unit (for labels: 1 substitution or 1 hit)
            seconds         of audio
            speaker, language   text or null
            empty           whether the normalised hypothesis is empty
            looping         whether an n-gram comes back more often than in the transcript
            keywords        {"hits", "true", "said"}; null where the clip has no keywords
            predicted       for labels the label that the hypothesis stands for; null where none, and in transcription
    comparisons   of the first model with each other one on each dataset:
        dataset, before_model, after_model
        before, after   their places in measurements
        difference      error rate after - before; negative is better
        interval        [low, high] of the difference; null below two clips (or groups)
        p_value         two-sided, paired bootstrap; null likewise
        relative_gain   share of the errors that is gone
        better, worse   [{"clip": place in clips, "id", "errors_before", "errors_after"}], the largest change first
        same            number of clips with as many errors as before
    probes        what each model says where nothing is said; [] unless asked for:
        model, seconds  length of every clip
        clips           [{"kind": "silence", "white" or "pink", "level_db": null or RMS over full scale, "hypothesis",
                        "words", "looping"}]
        with_output     how many of them got any words
        words           said altogether, in the unit of the rates

A summary:

    clips, seconds                     how many, how long together
    unit                               "word", "character", "mixed" or "label"
    wer                                corpus error rate in that unit: (S + D + I) / max(words, 1)
    interval                           [low, high], bootstrap; null below two clips (or groups), and in breakdowns
    substitutions, deletions, insertions, hits, words    summed; words = substitutions + deletions + hits
    cer                                corpus character error rate; null for labels
    empty, empty_share                 clips without a word in the hypothesis, those of silence among them
    looping, looping_share             clips whose hypothesis loops
    silence                            {"clips", "with_output", "words"} of clips with an empty transcript; null: none
    keywords                           {"hits", "true", "said", "precision", "recall", "f1"}; null: none asked for
    decoding_seconds, rtfx, rtfx_includes    wall time, audio seconds / wall seconds, and what the time includes; null
                                       in breakdowns
"""
