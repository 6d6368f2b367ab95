// README's snippet for OpenCV DNN in C++. Arguments: an image file, the photo, where the painting goes.
// g++ -std=c++17 opencv.cpp $(pkg-config --cflags --libs opencv4)

// README begins
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

void paint(cv::dnn::Net& net, const cv::Mat& photo, cv::Mat& painting) {  // at least 16x16
  cv::Mat content;
  int down = (4 - photo.rows % 4) % 4, right = (4 - photo.cols % 4) % 4;  // the network takes multiples of 4
  cv::copyMakeBorder(photo, content, 0, down, 0, right, cv::BORDER_REFLECT_101);
  net.setInput(cv::dnn::blobFromImage(content, 1 / 255.0, cv::Size(), cv::Scalar(), true));
  std::vector<cv::Mat> stylized;
  cv::dnn::imagesFromBlob(net.forward(), stylized);
  stylized[0](cv::Rect(0, 0, photo.cols, photo.rows)).convertTo(painting, CV_8U, 255);
  cv::cvtColor(painting, painting, cv::COLOR_RGB2BGR);
}

int main(int, char** arguments) {
  cv::dnn::Net net = cv::dnn::readNetFromONNX(arguments[1]);  // once
  cv::Mat painting;
  paint(net, cv::imread(arguments[2]), painting);
  cv::imwrite(arguments[3], painting);
}
// README ends
