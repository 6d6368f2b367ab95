import torch

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style.palette import mixed_style
from allaprima.inference.style.session import StyleSession, frame_to_image
from allaprima.models.image_transform_net import TIERS
from allaprima.training.conditional_instance_norm import ManyStyles, load_base, save_base
from allaprima.training.gallery.palette import write_palette


def test_a_mix_paints_as_the_network_of_mixed_parameters(tmp_path):
    torch.manual_seed(0)
    net = ManyStyles(TIERS["realtime"](), 3)
    with torch.no_grad():
        for name in net.own_names:
            net.net.get_parameter(name).add_(0.3 * torch.randn_like(net.net.get_parameter(name)))
    card = {"tier": "realtime", "paintings": ["a", "b", "photo"], "options": {"upsampling": "bilinear"}, "photos_seen": 4}
    save_base(tmp_path / "realtime.safetensors", net, card)
    base = load_base("realtime", tmp_path)
    write_palette(base, tmp_path / "palette.npz")
    image = frame_to_image(paint_landscape(64, 96))
    for shares in ({"a": 1.0}, {"a": 0.25, "b": 0.75}, {"b": 0.5, "photo": 0.5}):
        mixed = TIERS["realtime"]()
        own = {
            key: sum(share * each[base.names.index(name)] for name, share in shares.items()) for key, each in base.own.items()
        }
        mixed.load_state_dict(base.shared | own)
        mixed.upsampling = "bilinear"
        with torch.no_grad():
            expected = mixed.eval()(torch.from_numpy(image))
        found = StyleSession(mixed_style(shares, tmp_path / "palette.npz")).stylize_image(image)
        assert (torch.from_numpy(found) - expected).abs().max() < 2e-3
