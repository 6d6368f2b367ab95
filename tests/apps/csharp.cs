// README's snippet for ONNX Runtime in C#. Arguments: a frame file, the photo, where the painting goes; both are
// binary .ppm files with a header of three lines, so that nothing else is needed.

// README begins
using System.Linq;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

class Painter
{
    readonly InferenceSession session;

    public Painter(string style) { session = new InferenceSession(style); } // once

    public byte[] Paint(byte[] rgb, int height, int width) // height * width * 3 bytes, and so is the result
    {
        var frame = new DenseTensor<byte>(rgb, new[] { 1, height, width, 3 });
        using (var results = session.Run(new[] { NamedOnnxValue.CreateFromTensor("content_frame", frame) }))
            return results.First().AsTensor<byte>().ToArray();
    }
}
// README ends

static class Program
{
    static void Main(string[] arguments)
    {
        byte[] photo = System.IO.File.ReadAllBytes(arguments[1]);
        string[] header = System.Text.Encoding.ASCII.GetString(photo, 0, 32).Split('\n');
        int start = header[0].Length + header[1].Length + header[2].Length + 3;
        int[] sides = header[1].Split(' ').Select(int.Parse).ToArray();
        byte[] painting = new Painter(arguments[0]).Paint(photo.Skip(start).ToArray(), sides[1], sides[0]);
        System.IO.File.WriteAllBytes(arguments[2], photo.Take(start).Concat(painting).ToArray());
    }
}
