"""The formats of mined data, those of hnm_datasets and of other tools.

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

The second to the fifth are the formats of sentence-transformers, which reads columns by order, not by name. If the
names above are missing, the first text column is the query and the second is its positive.

Each format is an object in a file of its own, with its reader and its writer. `registry.FORMATS` lists them all.
"""
