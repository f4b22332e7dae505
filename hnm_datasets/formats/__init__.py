"""The formats in which mined data is kept, here and by other tools.

| format | a row | columns |
|---|---|---|
| `mined` | a query, passages by id | `query`, `positive_ids`, `negative_ids`, scores, ranks |
| `triplets` | a query, a positive, a negative | `anchor`, `positive`, `negative` |
| `n-tuples` | a query, a positive, n negatives | `anchor`, `positive`, `negative_1`, … |
| `labeled-pairs` | a query and a passage | `anchor`, `passage`, `label` |
| `labeled-lists` | a query and its passages | `anchor`, `passages`, `labels` |
| `tevatron` | a query, passages with id and title | `query_id`, `query`, `positive_passages`, `negative_passages` |
| `flagembedding` | a query, passages | `query`, `pos`, `neg`, `pos_scores`, `neg_scores` |
| `dpr` | a query, passages with id and title | `question`, `positive_ctxs`, `hard_negative_ctxs`, `negative_ctxs` |

The second to the fifth are those of sentence-transformers, which goes by the order of columns and not by their names:
where the names above are not found, the first text column is the query and the second its positive.

Each format is one object, declared in one file with its reader and its writer. `registry.FORMATS` holds them all.
"""
