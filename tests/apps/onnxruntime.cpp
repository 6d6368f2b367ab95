// README's snippet for ONNX Runtime in C++. Arguments: a frame file, the photo, where the painting goes; both are
// binary .ppm files, so that nothing else is needed.
// g++ -std=c++17 onnxruntime.cpp -Iinclude -Llib -lonnxruntime

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

int main(int, char** arguments) {
  const char* style = arguments[1];
  std::string magic;
  int64_t width, height, lightest;
  std::ifstream photo(arguments[2], std::ios::binary);
  photo >> magic >> width >> height >> lightest;
  photo.get();
  std::vector<uint8_t> rgb(3 * width * height);
  photo.read(reinterpret_cast<char*>(rgb.data()), rgb.size());

  // README begins
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::Session session(env, style, Ort::SessionOptions());  // once; on Windows the path is of wchar_t
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  int64_t shape[] = {1, height, width, 3};  // rgb: height * width * 3 bytes, in a std::vector<uint8_t>
  float keep_color = 1;                     // the photo's colors; leave the second feed out for the painting's
  Ort::Value feeds[] = {Ort::Value::CreateTensor<uint8_t>(memory, rgb.data(), rgb.size(), shape, 4),
                        Ort::Value::CreateTensor<float>(memory, &keep_color, 1, nullptr, 0)};
  const char *inputs[] = {"content_frame", "keep_color"}, *outputs[] = {"stylized_frame"};
  auto results = session.Run(Ort::RunOptions(), inputs, feeds, 2, outputs, 1);
  const uint8_t* painting = results[0].GetTensorData<uint8_t>();  // as rgb
  // README ends

  std::ofstream file(arguments[3], std::ios::binary);
  file << "P6\n" << width << " " << height << "\n255\n";
  file.write(reinterpret_cast<const char*>(painting), rgb.size());
}
