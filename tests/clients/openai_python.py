"""The openai package for Python."""

import base64
import io

import server

OUT_OF_MEMORY, NOT_FINITE = "[oom]", "[nan]"
FLAGS = ["--alias", "gpt-image-1=klein-4b", "--fake-fail", f"{OUT_OF_MEMORY}=out_of_memory", "--fake-fail",
         f"{NOT_FINITE}=not_finite"]


def main():
    try:
        import openai
    except ImportError as error:
        raise server.Skipped(error) from error
    with server.running(*FLAGS, env={"DJ_FLUX2_API_KEY": "secret"}) as running:
        client = openai.OpenAI(base_url=running.base + "/v1", api_key="secret")
        images(client)
        streams(client)
        errors(openai, client, running)
        assert {"klein-4b", "gpt-image-1"} <= {model.id for model in client.models.list()}
        assert client.models.retrieve("klein-4b").owned_by == "dj-flux2"
    return openai.__version__


def images(client):
    answer = client.images.generate(prompt="a fox", model="gpt-image-1", n=2, size="64x64", extra_body={"seed": 7})
    files = [base64.b64decode(image.b64_json) for image in answer.data]
    assert len(files) == 2 and files[0].startswith(b"\x89PNG") and files[0] != files[1]
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.created > 1_700_000_000 and answer.size == "64x64" and answer.data[0].seed == 7
    again = client.images.generate(prompt="a fox", size="64x64", extra_body={"seed": 7}, extra_headers={})
    assert base64.b64decode(again.data[0].b64_json) == files[0]
    url = client.images.generate(prompt="a fox", size="64x64", response_format="url").data[0].url
    import urllib.request

    assert urllib.request.urlopen(url).read().startswith(b"\x89PNG")

    def picture(name):
        return (name, io.BytesIO(server.png()), "image/png")

    one = client.images.edit(image=picture("a.png"), prompt="make it green", n=1)
    two = client.images.edit(image=[picture("a.png"), picture("b.png")], prompt="both", output_format="jpeg",
                             extra_body={"seed": 3, "num_inference_steps": 2})
    assert one.size == "64x64" and base64.b64decode(two.data[0].b64_json).startswith(b"\xff\xd8")


def streams(client):
    events = list(client.images.generate(prompt="a fox", size="64x64", stream=True, partial_images=2))
    assert events[-1].type == "image_generation.completed" and events[-1].usage.output_tokens == 16
    assert base64.b64decode(events[-1].b64_json).startswith(b"\x89PNG")
    edit = client.images.edit(image=("a.png", server.png()), prompt="p", stream=True)
    assert list(edit)[-1].type == "image_edit.completed"


def errors(openai, client, running):
    def fails(kind, code, **request):
        try:
            client.images.generate(**{"prompt": "p", "size": "64x64", **request})
        except kind as error:
            assert error.code == code, (error.code, code)
            assert getattr(error, "request_id", None), error
            return error
        raise AssertionError(f"{request} does not fail")

    assert fails(openai.BadRequestError, "invalid_size", size="65x64").param
    fails(openai.BadRequestError, "invalid_value", prompt="")
    fails(openai.BadRequestError, "prompt_too_long", prompt="x" * 40_000)
    fails(openai.NotFoundError, "model_not_found", model="dall-e-9")
    # The client numbers its attempts. These got their answer on the first: the server said that another would not help.
    for code, prompt in [("out_of_memory", OUT_OF_MEMORY), ("nan_output", NOT_FINITE)]:
        error = fails(openai.InternalServerError, code, prompt=prompt)
        assert running.answered(error.request_id)["attempt"] == 0
    try:
        list(client.images.generate(prompt=OUT_OF_MEMORY, size="64x64", stream=True))
        raise AssertionError("a stream with a failure does not fail")
    except openai.APIError as error:
        assert "memory" in str(error) or error.code == "out_of_memory", error
    try:
        openai.OpenAI(base_url=running.base + "/v1", api_key="wrong").models.list()
        raise AssertionError("a wrong key is let in")
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key"
