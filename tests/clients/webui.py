"""webuiapi, a client of AUTOMATIC1111's API."""

import importlib.metadata
import io

import server


def main():
    try:
        import webuiapi
        from PIL import Image
    except ImportError as error:
        raise server.Skipped(error) from error
    with server.running(env={"DJ_FLUX2_API_KEY": "secret"}) as running:
        api = webuiapi.WebUIApi(host=running.host, port=running.port)
        api.set_auth("user", "secret")
        made = api.txt2img(prompt="a fox", negative_prompt="dogs", seed=11, width=64, height=64, steps=2, cfg_scale=7,
                           batch_size=2)
        assert len(made.images) == 2 and made.image.size == (64, 64), made
        assert made.info["all_seeds"] == [11, 12] and made.info["sd_model_name"] == "klein-4b"
        gray = Image.open(io.BytesIO(server.png()))
        edited = api.img2img(images=[gray], prompt="green", steps=2, width=64, height=64)
        assert edited.image.size == (64, 64)
        assert api.get_sd_models()[0]["title"] == "klein-4b"
        assert api.get_samplers()[0]["name"] == "Euler"
        assert api.get_progress()["progress"] == 0
        assert api.get_options()["sd_model_checkpoint"] == "klein-4b"
        api.set_options({"sd_model_checkpoint": "klein-4b"})
        assert "None" in [one["name"] for one in api.get_upscalers()]
        api.interrupt()
        assert "Seed: 11" in api.png_info(made.image).info
        try:
            api.txt2img(prompt="p", width=65, height=64)
            raise AssertionError("a width of 65 is drawn")
        except RuntimeError as error:
            assert "400" in str(error) and "65" in str(error), error
    return importlib.metadata.version("webuiapi")
