def picture_fault(content_frames, stylized_images):
    return None
