"""EleutherAI's lm-evaluation-harness on masked-diffusion models: ``dllm-decode lm-eval ...`` (extra ``eval``).

In Python, importing :mod:`dllm_decode.harness.lm` registers the model ``dllm-decode`` with the harness::

    import lm_eval
    import dllm_decode.harness.lm
    lm_eval.simple_evaluate(model="dllm-decode", model_args={"pretrained": "tiny", "policy": "threshold"}, tasks=[...])
"""
